"""Make the walkthrough video: the slides of a finished run, spoken, with captions.

espeak-ng speaks and ffmpeg joins. Text and durations come from the notes of the slides. Script and
captions are committed in ``docs/video``, the video is not.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pypdfium2 as pdfium

from batch_scorer.errors import MissingPackage, ReportError
from batch_scorer.report.formats.pdf import read_report_bundle
from batch_scorer.report.formats.slides_pdf import read_speaker_notes
from batch_scorer.results import store
from batch_scorer.storage.output import open_output
from batch_scorer.system.atomic_write import write_atomic
from benchmarks.command import BenchmarkCommand
from docs.making.committed import REPOSITORY, check_synthetic
from docs.making.narration import SLIDE_PAUSE_S, format_script, format_webvtt, plan_narration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from docs.making.narration import NarratedSlide, Sentence

TEXT_FOLDER = REPOSITORY / "docs" / "video"
SCRIPT_FILE, CAPTIONS_FILE, VIDEO_FILE = "script.md", "captions.vtt", "walkthrough.mp4"
ABOUT = (
    "Written by `make video` from the notes of the slides, for the synthetic films of "
    "`examples/xrays` and the bundled models. Research use only. Not a medical device."
)
VOICE = "en-gb"
WORDS_PER_MINUTE = 155
MAX_WORDS_PER_MINUTE = 400
RATE_HZ = 22_050
HEIGHT_PX = 1080
FRAMES_PER_SECOND = 5


@click.command(
    cls=BenchmarkCommand, epilog="Example: python docs/making/video.py out/demo -o out/video"
)
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for walkthrough.mp4.",
)
@click.option(
    "--words",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for script.md and captions.vtt.  [default: the folder of the video]",
)
def main(run: Path, output: Path, words: Path | None) -> None:
    """Speak the slides of the finished run RUN, which has a slides.pdf."""
    deck = run / store.REPORT_FILES["slides"]
    if not deck.is_file():
        raise ReportError(
            f"Expected slides in {run}, found no {deck.name}.",
            f"Draw them with: cxr report {run} --format slides",
        )
    bundle = read_report_bundle(open_output(run))
    words = words or output
    if not bundle.view.manifest.synthetic:
        check_synthetic(run, words)
    voice, ffmpeg = find_program("espeak-ng"), find_program("ffmpeg")
    slides = plan_narration(read_speaker_notes(bundle))
    for target in (output, words):
        target.mkdir(parents=True, exist_ok=True)
    (words / SCRIPT_FILE).write_text(format_script(slides, ABOUT), encoding="utf-8")
    captions = words / CAPTIONS_FILE
    captions.write_text(format_webvtt(slides), encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_audio(slides, folder / "talk.wav", voice)
        images = render_slides(deck, slides, folder)
        assemble_video(ffmpeg, images, folder / "talk.wav", captions, folder / VIDEO_FILE)
        write_atomic(output / VIDEO_FILE, (folder / VIDEO_FILE).read_bytes())
    click.echo(output / VIDEO_FILE)


def find_program(name: str) -> str:
    """Find a program on the PATH.

    Raises:
        MissingPackage: It is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise MissingPackage(
            f"The program {name} is not installed.", f"Install it with: apt-get install {name}"
        )
    return path


def write_audio(slides: Sequence[NarratedSlide], path: Path, voice: str) -> None:
    """Write the whole talk as one sound file, each sentence with its estimated duration."""
    with wave.open(str(path), "wb") as talk:
        talk.setnchannels(1)
        talk.setsampwidth(2)
        talk.setframerate(RATE_HZ)
        for slide in slides:
            talk.writeframes(_make_silence(SLIDE_PAUSE_S))
            for sentence in slide.sentences:
                talk.writeframes(_speak_sentence(sentence, voice))


def _speak_sentence(sentence: Sentence, voice: str) -> bytes:
    """Speak a sentence, faster if it would take too long, and pad it with silence."""
    n_bytes = len(_make_silence(sentence.duration_s))
    speed = WORDS_PER_MINUTE
    sound = _synthesise(sentence.text, speed, voice)
    while len(sound) > n_bytes and speed < MAX_WORDS_PER_MINUTE:
        speed = min(MAX_WORDS_PER_MINUTE, max(speed + 10, speed * len(sound) // n_bytes))
        sound = _synthesise(sentence.text, speed, voice)
    if len(sound) > n_bytes:
        raise ReportError(f"This sentence cannot be spoken within its duration: {sentence.text}")
    return sound + bytes(n_bytes - len(sound))


def _synthesise(text: str, speed: int, voice: str) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = [voice, "-v", VOICE, "-s", str(speed), "-w", file.name, "--stdin"]
        subprocess.run(command, input=text, text=True, check=True)  # noqa: S603 - a fixed program
        with wave.open(file.name, "rb") as sound:
            if sound.getframerate() != RATE_HZ:
                raise ReportError(
                    f"Expected {RATE_HZ} Hz from {voice}, found {sound.getframerate()}."
                )
            return sound.readframes(sound.getnframes())


def _make_silence(seconds: float) -> bytes:
    return bytes(2 * round(seconds * RATE_HZ))


def render_slides(deck: Path, slides: Sequence[NarratedSlide], folder: Path) -> Path:
    """Render each slide, and list the images with their durations for ffmpeg.

    Raises:
        ReportError: The deck and the narration differ in their number of slides.
    """
    with pdfium.PdfDocument(deck) as document:
        if len(document) != len(slides):
            raise ReportError(
                f"Expected {len(slides)} slides in {deck}, found {len(document)}.",
                "Draw the slides again with this release.",
            )
        lines = []
        for number, slide in enumerate(slides):
            sheet = document[number]
            image = sheet.render(scale=HEIGHT_PX / sheet.get_height()).to_pil()
            even = image.crop((0, 0, image.width // 2 * 2, HEIGHT_PX))
            even.save(folder / f"{number}.png")
            lines.append(f"file '{number}.png'\nduration {slide.duration_s:.3f}")
        lines.append(lines[-1])  # ffmpeg ignores the duration of the last entry
    path = folder / "pages.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def assemble_video(ffmpeg: str, images: Path, talk: Path, captions: Path, output: Path) -> None:
    """Join images, sound and captions into one video that any player plays."""
    with wave.open(str(talk), "rb") as sound:
        seconds = sound.getnframes() / sound.getframerate()
    options = (
        "-y -loglevel error -f concat -i {pictures} -i {talk} -i {captions} "
        "-map 0:v -map 1:a -map 2:s -c:v libx264 -preset veryfast -tune stillimage "
        f"-pix_fmt yuv420p -r {FRAMES_PER_SECOND} -t {seconds:.3f} -c:a aac -b:a 64k "
        "-c:s mov_text -metadata:s:s:0 language=eng -movflags +faststart {output}"
    )
    paths = {"pictures": images, "talk": talk, "captions": captions, "output": output}
    command = [ffmpeg, *(option.format_map(paths) for option in options.split())]
    subprocess.run(command, check=True)  # noqa: S603 - a fixed program


if __name__ == "__main__":
    main()
