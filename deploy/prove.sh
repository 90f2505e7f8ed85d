#!/bin/bash
# Build deploy/Dockerfile with buildah on a base image from debootstrap. Then run it as a platform
# would: as the image's own user, without capabilities or network, on a read-only root.
# Needs root, buildah and debootstrap (both Debian packages), but no daemon and no image registry.
set -euo pipefail
target=${1:-cpu} release=bookworm mirror=http://deb.debian.org
cd "$(dirname "$0")/.."
work=$(mktemp --directory "${TMPDIR:-/var/tmp}/cxr-image-XXXXXX")
trap 'rm -rf "$work"' EXIT
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs CONTAINERS_STORAGE_CONF=$work/storage.conf
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/images"\nrunroot = "%s/run"\n' "$work" "$work" >"$work/storage.conf"

# The base: Debian with security updates and, like debian:*-slim, without documentation.
base=$work/base
debootstrap --variant=minbase "$release" "$base" "$mirror/debian" >"$work/debootstrap.log" || { cat "$work/debootstrap.log"; exit 1; }
printf "deb $mirror/%s main\n" "debian $release" "debian $release-updates" "debian-security $release-security" >"$base/etc/apt/sources.list"
for folder in doc info lintian locale man; do
  echo "path-exclude /usr/share/$folder/*" >>"$base/etc/dpkg/dpkg.cfg.d/slim"
  rm -rf "$base/usr/share/$folder"
done
rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*
if [ -n "${PIP_CERT:-}" ]; then  # for a package registry behind a private certificate
  cp "$PIP_CERT" "$base/etc/pip.pem"
  printf '[global]\ncert = /etc/pip.pem\n' >"$base/etc/pip.conf"
fi
container=$(buildah from scratch)
buildah add --quiet "$container" "$base" / >/dev/null
buildah commit --quiet --rm "$container" "docker.io/library/debian:$release-slim" >/dev/null
rm -rf "$base"
echo "base      ${SECONDS} s"

digest=$(buildah images --format '{{.Digest}}' "debian:$release-slim")
buildah build --quiet --pull-never --file deploy/Dockerfile --target "$target" --build-arg DEBIAN_DIGEST="$digest" --tag "cxr-batch:$target" .
echo "built     $target in ${SECONDS} s, $(buildah images --format '{{.Size}}' "cxr-batch:$target")"

config() { buildah inspect --type image --format "{{$1}}" "localhost/cxr-batch:$target"; }
user=$(config .OCIv1.Config.User) cxr=$(config 'index .OCIv1.Config.Entrypoint 0')
container=$(buildah from --pull-never "localhost/cxr-batch:$target")
install --directory --owner "${user%:*}" --group "${user#*:}" "$work/out"

# buildah has no read-only option, so remount the root, then switch to the image's user.
prove() {
  echo "\$ $*"
  unshare --net buildah run --user 0:0 --cap-add CAP_SYS_ADMIN --mount type=tmpfs,destination=/tmp,tmpfs-mode=1777 \
    --volume "$PWD/examples/xrays:/mnt/xrays:ro" --volume "$work/out:/mnt/out" "$container" -- \
    sh -euc 'mount -o remount,bind,ro /; user=$1; shift; exec setpriv --reuid "${user%:*}" --regid "${user#*:}" \
      --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"' sh "${as:-$user}" "$@"
}
test "$user" = 10001:10001 -a "$cxr" = cxr
prove sh -c 'test "$(id -u):$(id -g)" = 10001:10001'
as=0:0 prove sh -c '! touch /opt/cxr/written'
prove sh -c 'for tool in gcc cc c++ ld make pip pip3; do ! command -v $tool || exit 1; done'
if [ "$target" = cuda ]; then  # only the driver may be missing: the host provides it
  prove sh -c 'test "$(ldd /opt/cxr/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so | awk "/not found/ {print \$1}")" = libcuda.so.1'
fi
prove "$cxr" doctor
prove "$cxr" models test
as=993:990 prove "$cxr" models test  # an arbitrary user, as on Lambda and OpenShift
prove python -c 'import awslambdaric, batch_scorer.cli.lambda_handler'
prove "$cxr" score /mnt/xrays -o /mnt/out/run --model all --labels none
prove "$cxr" verify /mnt/out/run/report.pdf
for _ in 1 2; do  # the second run finds no work left
  prove "$cxr" job run /mnt/xrays -o /mnt/out/nights --model cnn --labels none
  prove "$cxr" verify /mnt/out/nights/latest/report.pdf
done
echo "proved    every check holds, ${SECONDS} s"
