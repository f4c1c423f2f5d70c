"""The report of a run: what it shows, of a whole run, of one that was cut off, and of none."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from salsa_cli import VERSION, pages
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.pages.charts import Histogram, LineChart
from salsa_cli.records import read_rows
from salsa_cli.rl import report_page
from salsa_cli.rl.best import BestUpdate
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.report_page import LoggedRun
from tests.support.histories import HEALTHY, START, history
from tests.support.html_tree import Tree

HOSTILE = "</blockquote><script>alert(1)</script>"


def sample(update: int, answer: str = "words", reward: float = 0.5) -> dict[str, Any]:
    return {
        "update": update,
        "prompt": f"prompt of {update}",
        "answer": answer,
        "finished": True,
        "reward": reward,
        "kl": 1.0,
    }


CONFIG = PPOConfig(output=Path("policy"), ref=("ref",), reward=("rm",), prompts="p.jsonl")


def page(
    rows: Sequence[UpdateMetrics],
    samples: Sequence[dict[str, Any]] = (),
    rewards: Sequence[dict[str, Any]] = (),
    kept: BestUpdate | None = None,
) -> pages.Page:
    return report_page.page("p", LoggedRun(rows, samples, rewards, kept))


def write(folder: Path, rows: list[UpdateMetrics], samples: list[dict[str, Any]]) -> None:
    for name, content in (("metrics", [m.row() for m in rows]), ("samples", samples)):
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def test_the_report_of_a_real_run(tmp_path: Path) -> None:
    rows = [UpdateMetrics.of(row) for row in read_rows(HEALTHY)]
    write(tmp_path, rows, [sample(i + 1) for i in range(30)])
    report_page.write(tmp_path, CONFIG)
    tree = Tree((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert tree.text["h1"] == ["salsa ppo: policy"]
    titles = tree.text["figcaption"]
    for title in ("Reward", "KL to the anchors", "Length", "Entropy", "Reward against KL"):
        assert title in titles
    assert tree.text["strong"] == ["This run is not finished.", "No warning."]
    report_page.write(tmp_path, replace(CONFIG, updates=len(rows)))
    tree = Tree((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert tree.text["strong"] == ["No warning."]
    # The start is the first ingredient: one line for both.
    assert {"to the reference", "to start, sft-1", "to sft-2"} <= set(tree.text["li"])
    # Answers from the first update to the last.
    assert {"Update 1", "Update 30"} <= set(tree.text["h4"])
    # reward: the mean of the last five updates, and the first.
    last = sum(m.reward for m in rows[-5:]) / 5
    assert f"{last:.2f}" in tree.text["dd"]


def test_warnings_stand_above_the_curves_and_in_them(tmp_path: Path) -> None:
    found = page(history(6, length=[40.0, 30, 20, 10, 5, 3]))
    (callout,) = [block for block in found.blocks if isinstance(block, pages.Callout)]
    assert callout.title == "length-collapse, update 5:" and "11.7 tokens" in callout.text
    charts = [
        chart
        for block in found.blocks
        if isinstance(block, pages.Grid)
        for chart in block.blocks
        if isinstance(chart, LineChart) and chart.title == "Length"
    ]
    assert [rule.label for rule in charts[0].rules] == ["length-collapse"]
    assert charts[0].rules[0].value == 5


def test_a_run_that_was_killed_while_writing_a_row(tmp_path: Path) -> None:
    write(tmp_path, history(3), [sample(1), sample(2), sample(3)])
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write('{"update": 4, "rew')
    report_page.write(tmp_path, CONFIG)
    assert "3 updates, 192 answers" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_figures_that_were_not_finite_are_gaps(tmp_path: Path) -> None:
    rows = [m.row() for m in history(6)]
    rows[3] |= {"reward": None, "reward_std": None, "length": None, "kl": None, "entropy": None}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    report_page.write(tmp_path, replace(CONFIG, updates=len(rows)))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    tree = Tree(html)
    assert "none" in tree.text["dd"]  # the mean of the last five updates
    assert tree.text["strong"] == ["No warning."]
    assert "nan" not in html.split("<main>")[1]


def test_a_run_without_an_update(tmp_path: Path) -> None:
    report_page.write(tmp_path, CONFIG)
    assert "No update is finished" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_the_model_says_stays_text(tmp_path: Path) -> None:
    write(tmp_path, history(2), [sample(1, HOSTILE), sample(2, "")])
    report_page.write(tmp_path, replace(CONFIG, output=Path(HOSTILE)))
    tree = Tree((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in tree.tags
    assert HOSTILE in tree.text["blockquote"]
    assert "an empty answer" in tree.text["blockquote"]


def chosen(found: pages.Page) -> dict[str, list[str]]:
    """The answers of each choice, in the order of the page."""
    (block,) = [block for block in found.blocks if isinstance(block, pages.Choices)]
    texts = [quotes.quotes[0].text for quotes in block.blocks if isinstance(quotes, pages.Quotes)]
    return {one.name: [texts[n] for n in sorted(one.shown)] for one in block.choices}


def test_samples_are_chosen_by_place_and_by_reward() -> None:
    samples = [sample(i + 1, f"answer {i + 1}", reward=-i) for i in range(36)]
    samples[20] |= {"finished": False}
    found = chosen(page(history(36), samples))
    assert list(found) == [
        "over the run",
        "highest reward in the last third",
        "lowest reward in the last third",
        "cut at the length limit",
        "all",
    ]
    assert found["over the run"] == [f"answer {n}" for n in (1, 10, 19, 27, 36)]
    # The last third begins at 25; rewards fall.
    assert found["highest reward in the last third"] == [f"answer {n}" for n in range(25, 35)]
    assert found["lowest reward in the last third"] == [f"answer {n}" for n in range(27, 37)]
    assert found["cut at the length limit"] == ["answer 21"]
    assert len(found["all"]) == 36


def test_of_many_samples_some_are_shown_from_all_over_the_run() -> None:
    samples = [sample(i // 2 + 1, f"answer {i}", reward=i % 7) for i in range(1000)]
    found = chosen(page(history(3), samples))
    assert found["one in 9 of 1,000"] == [f"answer {n}" for n in range(0, 1000, 9)]
    assert "all" not in found and "cut at the length limit" not in found


def test_the_rewards_at_the_start_and_at_the_end(tmp_path: Path) -> None:
    def samples(rewards: list[dict[str, Any]]) -> list[tuple[str, list[float]]]:
        charts = [
            chart
            for block in page(history(3), [], rewards).blocks
            if isinstance(block, pages.Grid)
            for chart in block.blocks
            if isinstance(chart, Histogram)
        ]
        return [(one.name, list(one.values)) for chart in charts for one in chart.samples]  # type: ignore[arg-type]

    def rows(updates: int, answers: int) -> list[dict[str, Any]]:
        return [{"update": n + 1, "rewards": [float(n)] * answers} for n in range(updates)]

    assert samples(rows(2, 512)) == [("update 1", [0.0] * 512), ("update 2", [1.0] * 512)]
    # Of few answers each, as many updates as give 256 answers, but a fifth of the run at most.
    first, last = samples(rows(100, 64))
    assert first == ("updates 1 to 4", [0.0] * 64 + [1.0] * 64 + [2.0] * 64 + [3.0] * 64)
    assert last[0] == "updates 97 to 100"
    assert samples(rows(20, 8))[0][0] == "updates 1 to 4"
    assert samples(rows(1, 8)) == samples([]) == []


def test_how_the_run_was_made_stands_on_its_page(tmp_path: Path) -> None:
    write(tmp_path, history(2), [sample(1)])
    config = replace(CONFIG, updates=7, kl_coef=0.25, origins={"kl_coef": "salsa.toml [ppo]"})
    report_page.write(tmp_path, config)
    tree = Tree((tmp_path / "report.html").read_text(encoding="utf-8"))
    command = "salsa ppo --ref ref --reward rm --prompts p.jsonl --kl-coef 0.25 --updates 7"
    to_go_on, made_by, settings, *_ = tree.text["pre"]
    assert to_go_on.endswith("-o policy --resume")
    assert sorted(made_by.split(" --")) == sorted(f"{command} -o policy".split(" --"))
    cells = tree.text["td"]
    assert cells[cells.index("kl_coef") :][:3] == ["kl_coef", "0.25", "salsa.toml [ppo]"]
    assert VERSION in cells and f"salsa {VERSION}, 20" in tree.text["p"][0]
    assert json.loads(settings)["kl_coef"] == 0.25
    # Only files that are there, by relative links.
    links = [value for name, value in tree.attributes if name == "href"]
    assert links == ["./metrics.jsonl", "./samples.jsonl"]


def test_what_some_runs_have_and_others_do_not() -> None:
    def titles(rows: list[UpdateMetrics]) -> set[str]:
        grids = [block for block in page(rows).blocks if isinstance(block, pages.Grid)]
        return {chart.title for grid in grids for chart in grid.blocks if hasattr(chart, "title")}

    plain = titles(history(3))
    assert not plain & {"Rewards that are not trained on", "Weight of the penalty", "Penalty"}
    more = [
        replace(START, update=i + 1, kl_coef=0.05 * (i + 1), penalty=9.0, watched={"gold": 1.0})
        for i in range(3)
    ]
    assert titles(more) - plain == {
        ("Rewards that are not trained on"),
        "Weight of the penalty",
        "Penalty",
    }


def test_a_prompt_may_be_a_conversation() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    assert report_page.prompt_text(messages) == "user: Hi\nassistant: Yes?"
    found = page(history(1), [sample(1) | {"prompt": messages}])
    assert "assistant: Yes?" in pages.render(found)


def test_the_evaluations_on_held_out_prompts_are_drawn(tmp_path: Path) -> None:
    one = HeldOutFigure(1.0, 0.1)
    measured = HeldOutMetrics(64, one, {}, {"gold": one}, {"start": one}, one, one, one)
    later = replace(measured, reward=HeldOutFigure(2.0, 0.1))
    rows = [replace(row, heldout=later if row.update == 4 else None) for row in history(4)]
    rows[0] = replace(rows[0], heldout_start=measured)
    found = page(rows, kept=BestUpdate(4, "reward", 2.0, 0.1))
    charts = {
        chart.title: chart
        for block in found.blocks
        if isinstance(block, pages.Grid)
        for chart in block.blocks
        if isinstance(chart, LineChart)
    }
    reward = charts["Reward, held out"]
    (line,) = reward.lines
    assert (list(line.x), list(line.y)) == ([0, 4], [1.0, 2.0])
    assert line.low == [1.0 - 0.196, 2.0 - 0.196]
    assert [(rule.value, rule.label) for rule in reward.rules] == [(4, "best by reward")]
    assert [one.name for one in charts["KL, held out"].lines] == ["to the start"]
    assert {"Watched rewards, held out", "Length, held out"} <= set(charts)
    assert "64 prompts not trained on" in pages.render(found)
    assert "held out" not in pages.render(page(history(4)))
