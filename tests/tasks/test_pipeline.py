"""On a real DVC repository of three tiny stages."""

import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from dvc.repo import Repo

from tasks import pipeline
from tasks.errors import ParamsError, StoreError

DAG = """
stages:
  number:
    cmd: echo the function is called instead
    params: [number]
    outs: [number.txt]
  square:
    matrix:
      of: ${names}
    cmd: echo the function is called instead
    deps: [number.txt]
    params: ["names.${item.of}"]
    outs: ["square-${item.of}.txt"]
  sum:
    cmd: echo the function is called instead
    deps: [square-a.txt, square-b.txt]
    outs: [sum.txt]
"""


def write_params(number: int, a: int = 1, b: int = 1) -> None:
    Path("params.yaml").write_text(f"number: {number}\nnames: {{a: {a}, b: {b}}}\n")


def make_all(number: int) -> list[str]:
    """Run what is stale, as the flow does, and return it in its order."""
    made = []
    while stale := list(pipeline.stale_stages()):
        stage = stale[0]
        if pipeline.restore(stage):
            continue
        outputs = {"number": "number.txt", "sum": "sum.txt"}
        output = outputs.get(stage) or f"square-{stage[-1]}.txt"
        Path(output).write_text(f"{stage} {number}")
        pipeline.record(stage, {})
        made.append(stage)
    return made


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    Path("dvc.yaml").write_text(DAG)
    write_params(3)


@pytest.mark.usefixtures("repository")
class TestPipeline:
    def test_stages_come_in_the_order_of_the_dag(self) -> None:
        names = pipeline.stage_names()
        assert names[0] == "number"
        assert set(names[1:3]) == {"square@a", "square@b"}
        assert names[3] == "sum"

    def test_everything_is_made_once(self) -> None:
        assert make_all(3) == ["number", "square@a", "square@b", "sum"]
        assert make_all(3) == []

    def test_a_change_makes_stale_what_depends_on_it(self) -> None:
        make_all(3)
        write_params(3, b=2)

        assert pipeline.stale_stages() == {
            "square@b": "changed deps: params.yaml (names.b)",
        }
        # The square's new text is the old one, so the sum stays.
        assert make_all(3) == ["square@b"]

    def test_what_was_made_before_is_restored(self) -> None:
        make_all(3)
        write_params(4)
        assert make_all(4) == ["number", "square@a", "square@b", "sum"]
        write_params(3)

        assert make_all(4) == []
        assert Path("number.txt").read_text() == "number 3"
        assert Path("sum.txt").read_text() == "sum 3"

    def test_a_deleted_output_is_restored(self) -> None:
        make_all(3)
        Path("sum.txt").unlink()

        assert make_all(4) == []
        assert Path("sum.txt").read_text() == "sum 3"

    def test_nobody_is_asked_whether_a_changed_output_may_go(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_all(3)
        write_params(4)
        make_all(4)
        write_params(3)
        Path("sum.txt").write_text("by hand")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("DVC asks a question"))

        assert not pipeline.restore("sum")
        assert Path("sum.txt").read_text() == "by hand"

    def test_an_output_that_did_not_fit_into_the_cache_is_told(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_all(3)
        write_params(4)
        Path("number.txt").write_text("4")
        # As on a full disk: DVC logs it and goes on.
        monkeypatch.setattr("dvc.output.Output.commit", lambda *_, **__: None)

        with pytest.raises(StoreError, match="number: its outputs are not all in DVC's cache"):
            pipeline.record("number", {})

    def test_a_remote_that_breaks_off_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def break_off(*_: object, **__: object) -> None:
            raise OSError("connection reset")

        monkeypatch.setattr(Repo, "push", break_off)
        with pytest.raises(StoreError, match="does not answer: connection reset; run again"):
            pipeline.push()

    def test_what_was_not_pushed_is_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_all(3)
        assert not pipeline.has_unpushed()  # there is nowhere to push to
        monkeypatch.setenv("SISR_STORAGE", "elsewhere")
        assert pipeline.has_unpushed()

        pipeline.push()

        assert not pipeline.has_unpushed()
        assert list(Path("elsewhere").rglob("*"))
        write_params(4)
        make_all(4)
        assert pipeline.has_unpushed()

    def test_another_commands_lock_is_waited_for(self) -> None:
        make_all(3)
        held = Repo()
        held.lock.lock()
        threading.Timer(5, held.lock.unlock).start()  # longer than DVC's own 3 s

        assert pipeline.stale_stages() == {}

    def test_code_that_changed_meanwhile_did_not_make_it(self) -> None:
        for name in ("tasks/used.py", "tasks/other.py", "models/kernel.py"):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text("before")
        deps = "deps: [tasks/used.py, models]"
        Path("dvc.yaml").write_text(DAG.replace("params: [number]", deps))
        Path("number.txt").write_text("3")
        code = pipeline.code_sums()
        Path("tasks/other.py").write_text("after")
        pipeline.record("number", code)

        for name in ("tasks/used.py", "models/kernel.py"):
            Path(name).write_text("after")
            with pytest.raises(ParamsError, match=f"{name} changed during the run; number is not"):
                pipeline.record("number", code)
            Path(name).write_text("before")

    def test_a_missing_output_is_no_record(self) -> None:
        with pytest.raises(StoreError, match=r"number\.txt"):
            pipeline.record("number", {})


def test_what_another_machine_has_made_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SISR_STORAGE", str(tmp_path / "storage"))
    for machine in ("first", "second"):
        (tmp_path / machine).mkdir()
        monkeypatch.chdir(tmp_path / machine)
        Repo.init(no_scm=True).close()
        Path("dvc.yaml").write_text(DAG)
        write_params(3)
        if machine == "first":
            assert len(make_all(3)) == 4
            pipeline.push()
    assert pipeline.restore("number") is False  # nothing is known yet
    pipeline.fetch_records()

    assert make_all(5) == []
    assert Path("sum.txt").read_text() == "sum 3"


def test_a_remote_that_lost_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_what_another_machine_has_made_is_not_made_again(tmp_path, monkeypatch)
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    Repo.init(no_scm=True).close()
    Path("dvc.yaml").write_text(DAG)
    write_params(3)
    shutil.rmtree(tmp_path / "storage" / "dvc" / "files")
    pipeline.fetch_records()

    assert make_all(3) == ["number", "square@a", "square@b", "sum"]


def test_a_remote_that_is_away(
    repository: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SISR_STORAGE", "s3://bucket/prefix")
    monkeypatch.setenv("SISR_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="DVC's remote does not answer"):
        pipeline.fetch_records()


def test_a_workspace_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a downloaded archive: DVC was initialised in a repository, which is gone."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    Repo.init().close()
    Path("dvc.yaml").write_text(DAG)
    write_params(3)
    shutil.rmtree(".git")

    assert make_all(3) == ["number", "square@a", "square@b", "sum"]


def test_no_repository_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(StoreError, match="DVC: you are not inside of a DVC repository"):
        pipeline.stale_stages()


def test_a_file_that_changes_during_the_run_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("seed: 1")

    with pytest.raises(ParamsError, match="changed during the run"), pipeline.unchanged(file):
        file.write_text("seed: 2")
    with pipeline.unchanged(file):
        pass
