from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import withstand
from withstand.reporting import report
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def test_report_goes_into_the_run_folder_by_default(write_run: WriteRun) -> None:
    folder = write_run()
    assert report([folder]) == folder / "report.html"
    assert (folder / "report.html").exists()
    assert report(str(folder), folder / "other.html") == folder / "other.html"


def test_report_of_several_runs_needs_a_place(write_run: WriteRun) -> None:
    with pytest.raises(RunFolderError, match=r"report of 2 run folders.*--out"):
        report([write_run("one"), write_run("two")])


def test_report_of_no_run_is_an_error() -> None:
    with pytest.raises(RunFolderError, match="no run folder to report"):
        report([])


def test_report_refuses_a_page_that_is_a_folder(write_run: WriteRun, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is a folder.*report\.html"):
        report([write_run()], tmp_path)


def test_report_refuses_a_place_that_cannot_be_made(write_run: WriteRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="Cannot make the folder"):
        report([write_run()], tmp_path / "file" / "deeper" / "page.html")


def test_report_leaves_the_old_page_where_a_write_fails(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_run(), tmp_path / "pages" / "page.html"
    old = report([folder], out, title="Before").read_bytes()

    def fail(self: Path, data: str, encoding: str | None = None) -> int:
        with self.open("w", encoding=encoding) as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(RunFolderError, match=r"page\.html: No space left"):
        report([folder], out)
    assert out.read_bytes() == old
    assert [file.name for file in out.parent.iterdir()] == ["page.html"]


def test_reporting_imports_no_torch() -> None:
    # The __init__ of the package imports all families, so it is left out here.
    source = Path(withstand.__file__).parent
    program = (
        "import sys, types\n"
        "package = sys.modules['withstand'] = types.ModuleType('withstand')\n"
        f"package.__path__ = [{str(source)!r}]\n"
        "import withstand.reporting\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'torch')[:3])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
