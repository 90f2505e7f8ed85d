"""URLs in texts: what may be a secret goes, whatever its name is, and the rest stays."""

from __future__ import annotations

import pytest

from batch_scorer.system.redact import redact_secrets, redact_url, register_secrets

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "rest",
    [
        "s3cr3t@host/a.png",
        "user:s3cr3t@host/a.png",
        "user:x@s3cr3t@host/a.png",
        "user:x/s3cr3t@host/a.png",
        "user:12/s3cr3t@host/a.png",
        "user:x#s3cr3t@host/a.png",
        "user:x?s3cr3t@host/a.png",
        "user:s3cr3t?x@host/a.png",
        "user:a@b/c#d?s3cr3t@host/a.png",
        "user:(s3cr3t)@host/a.png",
        "user:x's3cr3t@host/a.png",
        'user:x"s3cr3t@host/a.png',
        "to/s3cr3t@host/a.png",
        "user%3As3cr3t%40host/a.png",
        "user:s3cr3t%2540host/a.png",
        "user:x%2Fs3cr3t%40host/a.png",
        "user:x/s3cr3t%40host/a.png",
        *(
            f"host/a.png?{name}=s3cr3t"
            for name in (
                *("auth", "access_key", "pwd", "passwd", "client_secret", "code", "jwt"),
                *("refresh_token", "auth_token", "session", "Policy", "Key-Pair-Id"),
                *("password[]", "tok%65n", "objectUID", ""),
            )
        ),
        "host/a.png?s3cr3t",
        "host/a.png?a=b&c=s3cr3t#d",
        "host/a.png?mail=a@s3cr3t",
        "host?s3cr3t",
        "host#s3cr3t",
        "host/a.png#token=s3cr3t",
        "host/a.png%3Ftoken=s3cr3t",
        "host/a.png%253Ftoken=s3cr3t",
        "host/a.png%23s3cr3t",
        "host/a.png;jsessionid=s3cr3t",
        "[::1]:8080/a.png?s3cr3t",
    ],
)
@pytest.mark.parametrize("around", ["{}", "see <{}>.", "('{}', \"x\")", "url={}, y", "“{}”"])
@pytest.mark.parametrize("protocol", ["http", "HTTPS", "ftp", "postgresql+asyncpg"])
def test_no_part_of_a_url_that_may_be_a_secret_is_shown(rest, around, protocol):
    url = f"{protocol}://{rest}"
    assert SECRET not in redact_secrets(around.format(url))
    assert SECRET not in redact_url(url)
    encoded = url.replace("://", "%3A%2F%2F")
    assert SECRET not in redact_secrets(around.format(encoded))


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:s3cr3t@bucket/film.png",
        "s3://AKIA:x/s3cr3t+y@bucket/film.png",
        "s3://bucket/film.png?X-Amz-Signature=s3cr3t",
        "gs://s3cr3t@bucket/film.png",
        "az://container/film.png?sig=s3cr3t",
        "abfs://container:s3cr3t@account.dfs.core.windows.net/film.png",
        "abfs://container@account.dfs.core.windows.net/film.png?sv=1&sig=s3cr3t",
        "file://user:s3cr3t@host/film.png",
    ],
)
def test_no_secret_of_a_bucket_s_url_is_shown(url):
    assert SECRET not in redact_secrets(f"{url} cannot be read")
    assert SECRET not in redact_url(url)
    assert redact_url(url).endswith("/film.png")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pa55@host:9/a.png?x=1#y", "http://host:9/a.png"),
        ("(http://me@host/a.png?x=1).", "(http://host/a.png)."),
        ("'http://h/a?x=1', 'http://h/b?x=2'", "'http://h/a', 'http://h/b'"),
        ("http://[::1]:8080/a.png", "http://[::1]:8080/a.png"),
        ("http://host:8080/a%40b.png", "http://host:8080/a%40b.png"),
        ("s3://bucket/ward 7/a.png", "s3://bucket/ward 7/a.png"),
        ("s3://bucket/a@b:c/x;y.png", "s3://bucket/a@b:c/x;y.png"),
        (
            "abfss://films@account.blob.core.chinacloudapi.cn/a@b",
            "abfss://films@account.blob.core.chinacloudapi.cn/a@b",
        ),
        ("/data/ward?x=1/a#b@c.png", "/data/ward?x=1/a#b@c.png"),
        ("12:30 // a@b ? # no URL", "12:30 // a@b ? # no URL"),
        *(
            (name, name)
            for name in (
                *("ward:3/a.jpg", "ward:/3?x/me@home.jpg", r"C:\x\y?z@w.png", "C:/x/y?z@w.png"),
                *("a?b.jpg", "me@home/x.jpg", "logs:/me@x?y.jpg", "/films/az/s3/me@x.jpg"),
                *("file:///a@b.jpg", "file:///C:/x@y/z.png", "file:/a@b.jpg"),
            )
        ),
    ],
)
def test_what_is_no_secret_stays(text, shown):
    assert redact_secrets(text) == shown


def test_a_url_that_is_the_whole_text_may_hold_blanks():
    assert redact_url("http://h/a.png?q=x s3cr3t y") == "http://h/a.png"
    assert redact_url("http://me:pa ss\nword@h/a.png") == "http://h/a.png"
    assert redact_url(" http://h/a.png?x") == "http://h/a.png"


@pytest.mark.parametrize(
    ("argument", "text", "shown"),
    [
        ("http://u:s3cr3t@h/a b?x=s3cr3t", "no 'a b?x=s3cr3t'.", "no 'a b'."),
        ("http://u:s 3cr3t@h/a", "http:/u:s 3cr3t@h/a", "http:/h/a"),
        ("--x=http://h/a?x=s //3", "/cwd/http:/h/a?x=s /3", "/cwd/http:/h/a"),
        ("-ohttp://h/a?x=s 3", "http://h/a?x=s 3", "http://h/a"),
        ("http://u:s@h?s 3@x", "http:/u:s@h?s 3@x.", "http:/…."),
        ("http://h/a?", "what?", "what?"),
        ("me@home/a?b.jpg", "me@home/a?b.jpg", "me@home/a?b.jpg"),
    ],
)
def test_what_was_learnt_is_hidden_wherever_it_is_quoted(argument, text, shown):
    register_secrets([argument])
    try:
        assert redact_secrets(text) == shown
    finally:
        register_secrets([])
    assert redact_secrets("no 'a b?x=s3cr3t'.") == "no 'a b?x=s3cr3t'."


def test_a_long_text_takes_no_long_time():
    for text in ("a" * 300_000, "http://" + "%25" * 100_000):
        assert redact_secrets(text) == text
    assert redact_secrets("http://h/?" + ")" * 300_000 + "x") == "http://h/"
