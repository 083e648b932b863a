"""Sweeps, plans, reports and fits as a careless or hostile user gives them."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from tests.plant_samples import measured, write_csv
from tests.report_steps import sweep
from tests.sweep_steps import SHORT
from voltana.cli.main import app
from voltana.cli.plant import app as plant
from voltana.errors import ConfigError
from voltana.evaluation.provision import layouts
from voltana.evaluation.report.build import page_bytes, sweep_page
from voltana.evaluation.report.page import Page, render
from voltana.evaluation.report.series import SERIES
from voltana.evaluation.report.sweep_figures import MOST_DRAWN, sweep_figures
from voltana.evaluation.sweep import make_plan, run_sweep
from voltana.evaluation.sweep.fields import parse_axis, scenario_fields, value_of
from voltana.evaluation.sweep.rows_file import read_rows
from voltana.evaluation.sweep.store import PLAN, RESULTS, SweepStore
from voltana.evaluation.sweep.table import read_results, write_parquet
from voltana.evaluation.sweep.work import attempt
from voltana.evaluation.tariff import read_tariff
from voltana.levels import parse_levels
from voltana.plant import load_hardware, load_model
from voltana.plant.fit.board import fit_board
from voltana.plant.fit.measurements import MOST_ROWS, read_measurements
from voltana.policies.fixed import fixed_policy

DEEP = "[" * 5000


class Here:
    """Runs tasks in this process."""

    def __init__(self, before=lambda: None):
        self._before = before

    def run(self, tasks):
        for task in tasks:
            self._before()
            yield attempt(task)


@pytest.mark.parametrize(
    "grid",
    [
        {"rate": [2], "workload.rate_rps": [3]},
        {"pd": ["1:1"], "prefill": [2]},
        {"arrivals.duration_s": [1], "workload.duration_s": [2]},
    ],
)
def test_fields_that_set_the_same_key_are_refused_and_named(grid):
    with pytest.raises(ConfigError, match=r"both set (workload|cluster)\.\w+"):
        make_plan(SHORT, grid)
    first, second = grid
    with pytest.raises(ConfigError, match="both set"):
        make_plan(SHORT, {first: grid[first]}, [{second: grid[second][0]}])


def test_a_list_and_a_grid_that_vary_the_same_field_are_refused():
    with pytest.raises(ConfigError, match="both set seed"):
        make_plan(SHORT, {"seed": [1]}, [{"seed": 2}])


def test_values_nested_without_end_are_text_or_an_error():
    assert value_of(DEEP) == DEEP
    with pytest.raises(ConfigError, match="nested too deep"):
        parse_axis(f"seed={DEEP}")


def test_line_ends_of_unicode_are_text_in_lists(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"predictor": "a\u2028b"}\n{"seed": 1}\n', encoding="utf-8")
    assert read_rows(tmp_path / "a.jsonl") == [{"predictor": "a\u2028b"}, {"seed": 1}]
    (tmp_path / "a.csv").write_text('predictor,seed\n"a\x0bb\nc",1\n', encoding="utf-8")
    assert read_rows(tmp_path / "a.csv") == [{"predictor": "a\x0bb\nc", "seed": 1}]


@pytest.mark.parametrize("path", ["a\0.csv", "\ud800.csv"])
def test_a_path_that_no_file_can_have_is_refused_by_its_field(path):
    for field, base in (
        ("trace.file", {}),
        ("workload.rates_file", {"workload": {"arrival": "rates"}}),
        ("power_budget_file", {}),
    ):
        with pytest.raises(ConfigError, match=rf"{field.rpartition('.')[2]} = .*must be a path"):
            make_plan(base, {field: [path]})


def test_a_file_that_changes_while_a_sweep_runs_gives_no_figures(tmp_path):
    rates = tmp_path / "budget.csv"
    rates.write_text("0,1000\n")
    plan = make_plan(SHORT, {"power_budget_file": [str(rates)], "seed": [1]})
    changed = run_sweep(plan, tmp_path / "out", Here(lambda: rates.write_text("0,900\n")))
    assert "has changed since the sweep began" in "".join(changed.failures.values())
    assert not list((tmp_path / "out" / "runs").glob("*.json"))
    rates.write_text("0,1000\n")
    assert run_sweep(plan, tmp_path / "out", Here()).ran == 1


@pytest.mark.parametrize("value", ["abc", [1], math.nan, 0.5])
def test_a_record_that_was_altered_is_run_again(tmp_path, value):
    plan = make_plan(SHORT, {"seed": [1]})
    whole = write_parquet(run_sweep(plan, tmp_path, Here()).rows, tmp_path)[0].read_bytes()
    (path,) = (tmp_path / "runs").glob("*.json")
    record = json.loads(path.read_text())
    record["rows"][0]["energy_j"] = value
    path.write_text(json.dumps(record))
    again = run_sweep(plan, tmp_path, Here())
    assert again.ran == 1
    assert write_parquet(again.rows, tmp_path)[0].read_bytes() == whole


def test_the_folder_is_held_while_its_results_are_written(tmp_path):
    """What another sweep takes for a torn file would else be one that is being written."""

    def write(outcome):
        with pytest.raises(ConfigError, match="in use by another sweep"):
            SweepStore(tmp_path)
        write_parquet(outcome.rows, tmp_path)

    run_sweep(make_plan(SHORT, {"seed": [1]}), tmp_path, Here(), ended=write)
    assert (tmp_path / RESULTS).exists()


@pytest.mark.parametrize("mixtures", [False, True])
def test_a_million_boards_are_refused_before_their_layouts_are_made(mixtures):
    with pytest.raises(ConfigError, match="at most 500 layouts"):
        layouts(10**9, [1, 2], mixtures=mixtures)
    for boards in (1, 2, 7):
        made = layouts(boards, [1, 2], mixtures=mixtures)
        assert len(made) == len(set(made))


@pytest.mark.parametrize("text", ["cluster = 3", "[[cluster]]\nmodel = 'x'"])
def test_plan_refuses_a_cluster_that_is_no_table(tmp_path, text):
    from voltana.cli.main import app

    (tmp_path / "s.toml").write_text(text)
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o")])
    assert isinstance(done.exception, ConfigError)
    assert "cluster = " in str(done.exception)


def test_names_with_the_templates_own_braces_stay_names():
    hostile = "{{library}}\0library\0</script><b>{{charts}}"
    text = render(Page(title=hostile, lead=hostile, tiles=[(hostile,) * 3], figures=()))
    assert len(text) < 8_000_000
    assert text.count("<script") == 3
    assert "{{library}}\0library\0&lt;/script&gt;" in text


def changed(tmp_path, change):
    """The Parquet of a sweep, with other columns or metadata."""
    folder = sweep(tmp_path, policies=("static-max",), seed=[1])
    table = parquet.read_table(folder / RESULTS)
    parquet.write_table(change(table), folder / RESULTS)
    return folder


def knowledge(said):
    def change(table):
        key = b"voltana_sweep_form"
        form = json.loads(table.schema.metadata[key])
        text = said if isinstance(said, str) else json.dumps({**form, "knowledge": said})
        return table.replace_schema_metadata({key: text.encode()})

    return change


def column(name, value):
    def change(table):
        place = table.column_names.index(name)
        made = pa.array([value] * len(table), table.schema.field(name).type)
        return table.set_column(place, name, made)

    return change


@pytest.mark.parametrize(
    "change",
    [
        *map(knowledge, ([1], None, {"x": {"measured": 3}}, {"x": {"bogus": ["y"]}}, DEEP)),
        column("levels", DEEP),
        column("levels", "[oops"),
        column("energy_j", math.nan),
        column("energy_j", None),
    ],
)
def test_a_parquet_that_something_else_has_written_is_one_error(tmp_path, change):
    folder = changed(tmp_path, change)
    with pytest.raises(ConfigError, match=RESULTS):
        page_bytes(sweep_page(folder, {}), folder / RESULTS)


def test_a_hundred_thousand_rows_are_a_page_that_can_be_sent(tmp_path):
    row = read_results(sweep(tmp_path, policies=("static-max",), seed=[1]) / RESULTS).rows[0]
    rows = [
        {**row, "workload.rate_rps": float(rate), "slo.itl_ms": 10.0 * itl, "seed": seed,
         "energy_saved_vs_static_max": (7 * rate + itl) % 101 / 101, "itl_attainment": seed / 10}
        for rate in range(1000) for itl in range(1, 11) for seed in range(10)
    ]  # fmt: skip
    figures = sweep_figures(rows, scenario_fields())
    lines = [f for f in figures if f.title.startswith("Energy by")]
    assert 0 < sum(len(t["x"]) for f in lines for t in f.traces) <= MOST_DRAWN
    assert len(render(Page(title="t", lead="l", tiles=(), figures=figures))) < 8_000_000


def test_one_row_fifty_times_tells_no_more_than_itself():
    board, model = load_hardware("h100-sxm"), load_model("llama-3.1-8b")
    row = next(r for r in measured(board, model) if r.phase == "decode")
    fitted = fit_board(board, model, [row] * 50)
    assert not any(each.told for each in fitted.coefficients)
    assert len(fitted.repeated) == 49


def test_kilowatts_and_swapped_columns_are_refused():
    from dataclasses import replace

    board, model = load_hardware("h100-sxm"), load_model("llama-3.1-8b")
    rows = measured(board, model)
    with pytest.raises(ConfigError, match=r"column 'power_w'.*Check the unit"):
        fit_board(board, model, [replace(row, power_w=row.power_w / 1e3) for row in rows])
    with pytest.raises(ConfigError, match=r"of the board's published peak.*swapped"):
        fit_board(board, model, [replace(row, latency_s=0.02) for row in rows])
    with pytest.raises(ConfigError, match=r"swapped|within 30 times"):
        fit_board(board, model, [replace(r, batch=r.context, context=r.batch) for r in rows])


def test_more_measurements_than_can_be_fitted_are_said_at_once(tmp_path):
    path = tmp_path / "many.csv"
    head = "phase,batch,context,clock_mhz,latency_ms,power_w\n"
    path.write_text(head + "decode,8,1000,1410,12.5,300\n" * (MOST_ROWS + 1))
    with pytest.raises(ConfigError, match=f"more than {MOST_ROWS} rows"):
        read_measurements(path, clocks_mhz=(210.0, 1410.0), most_w=800.0)


def test_a_profile_that_cannot_be_written_is_said_before_the_fit(tmp_path):
    board, model = load_hardware("h100-sxm"), load_model("llama-3.1-8b")
    mine = tmp_path / "mine.csv"
    write_csv(mine, measured(board, model))
    out = str(mine / "y.toml")
    options = ["--hardware", "h100-sxm", "--model", "llama-3.1-8b", "--out", out]
    done = CliRunner().invoke(plant, ["fit", str(mine), *options])
    assert isinstance(done.exception, ConfigError)
    assert "cannot be made" in str(done.exception)


def test_a_page_that_no_batch_fills_is_refused():
    """A colocated engine waited for it without end."""
    base = {**SHORT, "cluster": {"colocated": 1}, "engine": {"page_tokens": 1_000_000}}
    with pytest.raises(ConfigError, match=r"engine\.page_tokens = 1000000 .*max_prefill_tokens"):
        make_plan(base, {"seed": [1]})


@pytest.mark.parametrize("field", ["idle_tick_s", "energy_tick_s", "snapshot_period_s"])
def test_periods_that_would_never_let_a_run_end_are_refused(field):
    with pytest.raises(ConfigError, match=rf"engine\.{field} = 1e-09 .*at least 0\.001 s"):
        make_plan({**SHORT, "engine": {field: 1e-9}}, {"seed": [1]})


def test_a_report_overwrites_nothing_of_its_run(tmp_path):
    done = CliRunner().invoke(
        app, ["report", str(tmp_path), "--out", str(tmp_path / "results.json")]
    )
    assert isinstance(done.exception, ConfigError)
    assert "ends in .html" in str(done.exception)


@pytest.mark.parametrize(
    "name", [PLAN, RESULTS, SERIES, "runs/x.json", "scenario.toml", "../{folder}/report.md"]
)
@pytest.mark.parametrize(
    "command", [["sweep", "--grid", "seed=1"], ["simulate"], ["reproduce", "slo", "--quick"]]
)
def test_json_is_not_written_over_what_a_command_keeps(tmp_path, command, name):
    (tmp_path / "runs").mkdir()
    file = tmp_path / name.format(folder=tmp_path.name)
    file.write_text("kept")
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path), "--json", str(file)])
    assert isinstance(done.exception, ConfigError)
    assert "--json = " in str(done.exception)
    assert "Other names may be files of the run" in str(done.exception)
    assert file.read_text() == "kept"


def test_json_may_lie_in_the_folder_of_its_run(tmp_path):
    arguments = ["--grid", "pd=1:1", "--grid", "duration=1", "--policy", "static-max"]
    made = tmp_path / "all.json"
    for _ in range(2):  # there already, the second time
        app(["sweep", *arguments, "--out", str(tmp_path), "--json", str(made)],
            standalone_mode=False)  # fmt: skip
    assert json.loads(made.read_text())["scenarios"] == 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"scenarios": 2, "rows": []}'])
def test_a_plan_that_is_none_is_said_and_not_taken_for_other_code(tmp_path, content):
    (tmp_path / PLAN).write_text(content)
    with pytest.raises(ConfigError, match=r"is none that a sweep has written\. Delete it and"):
        run_sweep(make_plan(SHORT, {"seed": [1]}), tmp_path, Here())


@pytest.mark.parametrize("flag", [["--no-search"], ["--clocks", "x"], ["--published", "."]])
def test_what_the_main_result_alone_takes_is_refused_elsewhere(flag):
    asked = CliRunner().invoke(app, ["reproduce", "levels", *flag])
    assert isinstance(asked.exception, ConfigError) or asked.exit_code == 2
    assert f"{flag[0]} is taken by main-result alone" in str(asked.exception) + asked.output


def test_a_folder_of_a_run_and_of_a_sweep_is_refused(tmp_path):
    (tmp_path / "series.json").write_text("{}", encoding="utf-8")
    (tmp_path / RESULTS).write_bytes(b"")
    asked = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert "holds a run and a sweep" in str(asked.exception) + asked.output


@pytest.mark.parametrize("text", ["\uff10.25", "0_25", "1_0", "\u0661"])
def test_numbers_of_other_scripts_or_with_underscores_are_no_numbers(tmp_path, text):
    """Python takes them: a price of ``0_25`` was 25."""
    series = tmp_path / "p.csv"
    series.write_text(f"0,1\n5,{text}\n", encoding="utf-8")
    for given, said in ((text, "cannot be read"), (str(series), "row 2")):
        with pytest.raises(ConfigError, match=said):
            read_tariff("price", given)
    for name in (f"fixed:{text}", f"fixed:1200/{text}"):
        with pytest.raises(ConfigError, match="must be fixed:MHZ"):
            fixed_policy(name)
    for levels in (text, f"above:{text}", f"even:{text}"):
        with pytest.raises(ConfigError, match=r"levels = .* is not allowed"):
            parse_levels(levels)
    assert parse_axis(f"seed={text}..20")[1] == (f"{text}..20",)  # no range, and no seed either
    asked = CliRunner().invoke(app, ["reproduce", "u-curve", "--seeds", text])
    assert "must be whole numbers" in str(asked.exception) + asked.output


def test_a_ratio_of_other_digits_is_none():
    with pytest.raises(ConfigError, match="must be PREFILL:DECODE"):
        make_plan(SHORT, {"pd": ["\uff11:1"]})
