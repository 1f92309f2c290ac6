"""Job files: what is read, and what is refused in which words."""

from pathlib import Path

import pytest
import yaml

from hardsight.errors import JobError
from hardsight.nas.job import load_job, parse_job
from hardsight.nas.job_reference import reference
from hardsight.nas.spaces import Task, get_space


def test_units_and_short_forms() -> None:
    job = parse_job(
        {"data": "digits", "space": "quant_cnn", "timeout": "10min",
         "constraints": {"latency_s": "2ms", "memory": "8MiB", "size_bytes": 200_000}}
    )  # fmt: skip
    assert job.constraints == {"latency_s": 0.002, "peak_memory_bytes": 8 * 2**20, "size_bytes": 200_000}
    assert job.timeout == 600


def test_scientific_notation_that_yaml_takes_for_text() -> None:
    assert parse_job(yaml.safe_load("constraints: {latency_s: 2e-3}")).constraints == {"latency_s": 0.002}


def test_resolved_job_reads_back_the_same() -> None:
    job = parse_job(
        {"timeout": "90s", "space": {"name": "quant_cnn", "max_depth": 2}, "constraints": {"size": "1kB"}}
    )
    again = parse_job(yaml.safe_load(job.to_yaml()))
    assert again == job
    assert job.difference(again) == []


def test_difference_names_old_and_new() -> None:
    old, new = parse_job({"epochs": 3}), parse_job({"epochs": 4, "data": {"limit": 50}})
    assert old.difference(new) == ["data.limit: None → 50", "epochs: 3 → 4"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"objektives": ["error"]}, "Did you mean 'objectives'"),
        ({"data": {"sauce": "digits"}}, "Did you mean 'source'"),
        ({"objectives": ["error", "latency"]}, "Did you mean 'latency_s'"),
        ({"objectives": ["latency_s"]}, "must be among the objectives"),
        ({"constraints": {"latency": 2}}, "no unit"),
        ({"constraints": {"latency_s": "2MiB"}}, "MiB"),
        ({"constraints": {"latencys": "2ms"}}, "Did you mean 'latency"),
        ({"constraints": {"latency_s": 0}}, "not above zero"),
        ({"constraints": ["latency_s"]}, "limits by cost"),
        ({"timeout": "soon"}, "not a quantity"),
        ({"sampler": "nsga9"}, "nsga2"),
        ({"trials": 0}, "trials: .* not 0"),
        ({"trials": True}, "trials: .* not True"),
        ({"timeout": float("inf")}, "timeout: .* finite"),
        ({"timeout": True}, "no time"),
        ({"data": ""}, "data.source: '' is no path"),
        ({"data": "a\0b"}, "is no path"),
        ({"data": {"source": "a.csv", "shape": [0, 4]}}, "data.shape.0: [^;]* not 0$"),
        (None, "nothing"),
        ([1], "no keys"),
    ],
)
def test_refused(raw: object, words: str) -> None:
    with pytest.raises(JobError, match=words.replace("(", r"\(")) as caught:
        parse_job(raw)
    assert "\n" not in str(caught.value)


def test_file_that_is_missing_or_torn(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="does not exist"):
        load_job(tmp_path / "no.yaml")
    (tmp_path / "torn.yaml").write_text("data: [")
    with pytest.raises(JobError, match="not YAML"):
        load_job(tmp_path / "torn.yaml")


def test_data_is_found_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: pictures.npz")
    job = load_job(tmp_path / "mine.yaml")
    assert job.data.source == str(tmp_path / "pictures.npz")
    assert job.output == "mine"


def test_one_objective_and_times_with_units() -> None:
    job = parse_job({"objectives": "error", "measure_budget_s": "200ms"})
    assert (job.objectives, job.measure_budget_s) == (("error",), 0.2)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j.yaml").write_text("trials: 3\ndata: {source: digits, limit: 5, limit: 6}\n")
    with pytest.raises(JobError, match="'limit' stands twice, again in line 2"):
        load_job(tmp_path / "j.yaml")


def test_password_is_not_shown() -> None:
    job = parse_job({"storage": "postgresql://me:se@cret@host/db"})
    assert job.public().storage == "postgresql://me:***@host/db"
    assert job.storage == "postgresql://me:se@cret@host/db"
    assert parse_job({"storage": "sqlite:////tmp/a.db"}).public().storage == "sqlite:////tmp/a.db"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depht": 3}, "unknown key 'space.depht'"),
        ({"resolutions": [2]}, "space.resolutions.0: [^;]* not 2$"),
        ({"expansions": [0]}, "space.expansions.0: [^;]* not 0$"),
        ({"widths": [[9, 8]]}, "space.widths: range 9 to 8 is empty"),
    ],
)
def test_space_options_are_refused_by_the_key_of_the_job(options: dict[str, object], words: str) -> None:
    with pytest.raises(JobError, match=words):
        get_space("quant_cnn").for_task(Task((1, 8, 8), 10), **options)


def test_the_page_on_job_files_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "job.md"
    assert page.read_text() == reference(), "run: python -m hardsight.nas.job > docs/job.md"
