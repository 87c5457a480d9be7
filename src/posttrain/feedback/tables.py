"""The label report in the terminal and as one offline page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from posttrain.config.files import write_text
from posttrain.feedback.adjudication import Doubt
from posttrain.feedback.annotators import Annotator
from posttrain.feedback.quality import LabelReport
from posttrain.metrics.intervals import Interval
from posttrain.records import CHOICES


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of text; ``note`` says how to read it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def label_tables(report: LabelReport, queue: Sequence[Doubt] = (), *, most: int = 10) -> list[Table]:
    """The report as tables; ``most`` rows of the adjudication queue."""
    tables = [_overview(report), _effects(report), _annotators(report)]
    if report.pairs:
        rows = tuple((pair.first, pair.second, str(pair.shared), _percent(pair.agreement), _figure(pair.kappa)) for pair in report.pairs)
        tables.append(Table("Who agrees with whom", ("annotator", "with", "shared", "agreement", "Cohen's kappa"), rows))
    if confusions := [one for one in report.annotators if one.confusion]:
        tables.append(_confusions(confusions))
    if report.dimensions:
        tables.append(_dimensions(report))
    tables.append(_models(report))
    if queue:
        doubts = tuple((doubt.comparison.id, f"{doubt.entropy:.2f}", _votes(doubt)) for doubt in queue[:most])
        note = f"{len(queue)} comparisons have annotators who differ or an uncertain label; most uncertain first"
        tables.append(Table("To adjudicate first", ("comparison", "bits", "votes"), doubts, note))
    return tables


def report_lines(tables: Sequence[Table]) -> list[str]:
    """Tables as aligned text."""
    lines: list[str] = []
    for table in tables:
        cells = [table.columns, *table.rows] if any(table.columns) else list(table.rows)
        widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
        lines += ["", table.title] + ([f"  {table.note}"] if table.note else [])
        lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return lines[1:]


def write_page(path: str | Path, report: LabelReport, tables: Sequence[Table], *, title: str) -> None:
    """One HTML file that opens offline; every text is escaped."""
    environment = Environment(
        loader=PackageLoader("posttrain.feedback", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("labels.html.jinja").render(title=title, tables=tables, warnings=warnings(report))
    write_text(path, page)


def warnings(report: LabelReport) -> list[str]:
    """What a reader must not miss, one sentence each; empty when nothing stands out."""
    said = [
        f"{one.name} stands out: " + "; ".join(f"{f.test} {f.value:.0%} against {f.expected:.0%} (p {f.p:.2g})" for f in one.findings)
        for one in report.annotators
        if one.uncalibrated
    ]
    effects = report.effects
    if effects.first_chosen and not effects.first_chosen.low <= 0.5 <= effects.first_chosen.high:
        wins = f"the answer shown first wins {_percent(effects.first_chosen)} of the time"
        if effects.order_drawn:
            said.append(f"{wins}: labels depend on the place")
        else:
            said.append(f"{wins}, but the order was not drawn: whether the place or the better answer wins cannot be told; draw the order")
    if effects.longer_chosen and effects.longer_chosen.low > 0.5:
        said.append(f"the longer answer wins {_percent(effects.longer_chosen)} of the time: a model may learn length from these labels")
    if report.alpha and report.alpha.low < 0.667:
        said.append(
            f"Krippendorff's alpha is {_figure(report.alpha)}: below .667 even tentative conclusions are doubtful (Krippendorff 2004)"
        )
    if not report.judged_twice:
        said.append("no comparison was judged by two annotators: agreement is unknown")
    return said


def _overview(report: LabelReport) -> Table:
    rows = [
        ("rubric", report.rubric),
        ("comparisons, prompts", f"{report.comparisons}, {report.prompts}"),
        ("judgements, annotators", f"{report.judgements}, {len(report.annotators)}"),
        ("judged by two or more", str(report.judged_twice)),
        ("unanimous among these", f"{report.unanimous / report.judged_twice:.1%}" if report.judged_twice else "-"),
        ("ties", f"{report.ties:.1%}"),
        ("gold tasks", str(report.gold_tasks)),
        ("agreement of two labels", _percent(report.agreement)),
        ("Fleiss' kappa", _figure(report.fleiss)),
        ("Krippendorff's alpha", _figure(report.alpha)),
        ("alpha with a < tie < b", _figure(report.ordinal)),
    ]
    if report.unjudged:
        rows.insert(2, ("not judged yet", str(report.unjudged)))
    return Table("Labels", ("", ""), tuple(rows))


def _effects(report: LabelReport) -> Table:
    effects = report.effects
    rows = (
        ("shown first wins", _percent(effects.first_chosen), _count(effects.first_chosen)),
        ("listed first (a) wins", _percent(effects.first_listed), _count(effects.first_listed)),
        ("longer answer wins", _percent(effects.longer_chosen), _count(effects.longer_chosen)),
        ("decided by position alone", _percent(effects.by_position_alone), _count(effects.by_position_alone)),
        ("decided by length alone", _percent(effects.by_length_alone), _count(effects.by_length_alone)),
    )
    note = "alone: labels that a rule gets right which sees nothing else; half is chance. '-': not recorded, then the place is that listed"
    return Table("Place and length", ("", "share of decided labels", "labels"), rows, note)


def _annotators(report: LabelReport) -> Table:
    columns = ("annotator", "labels", "a", "b", "tie", "accuracy*", "agrees", "gold tasks", "first shown", "longer", "same again", "")
    note = "* after Dawid-Skene; '-': too few comparisons judged by others too, or not recorded"
    return Table("Annotators", columns, tuple(_annotator(one) for one in report.annotators), note)


def _annotator(one: Annotator) -> tuple[str, ...]:
    return (
        one.name,
        str(one.labels),
        *(f"{one.shares[choice]:.0%}" for choice in CHOICES),
        "-" if one.accuracy is None else f"{one.accuracy:.0%}",
        "-" if one.agreement is None else f"{one.agreement:.0%}",
        *(_percent(figure) for figure in (one.gold, one.first_chosen, one.longer_chosen, one.repeated)),
        "STANDS OUT" if one.uncalibrated else "",
    )


def _confusions(found: Sequence[Annotator]) -> Table:
    rows = tuple(
        (one.name, *(f"{share:.0%}" for row in one.confusion or () for share in row))
        for one in found  # rows: the true choice; columns: what was said
    )
    columns = ("annotator", *(f"{true} as {said}" for true in CHOICES for said in CHOICES))
    return Table("What annotators take for what", columns, rows, "true choice as said, after Dawid-Skene")


def _dimensions(report: LabelReport) -> Table:
    rows = tuple(
        (one.name, str(one.answers), ", ".join(f"{value} {share:.0%}" for value, share in list(one.shares.items())[:4]), _figure(one.alpha))
        for one in report.dimensions
    )
    return Table("Rubric dimensions", ("", "answers", "most frequent", "Krippendorff's alpha"), rows)


def _models(report: LabelReport) -> Table:
    models = report.effects.models
    if models is None:
        return Table("Systems compared", ("",), ((f"no scores: {report.effects.no_models}",),))
    scores = sorted(models.scores.items(), key=lambda item: -item[1].value)
    rows = [(name, _figure(score)) for name, score in [*scores, *models.covariates.items()]]
    return Table("Systems compared", ("", "logits"), tuple(rows), "Bradley-Terry; place and length taken out")


def _votes(doubt: Doubt) -> str:
    return " ".join(f"{choice}:{doubt.votes[choice]}" for choice in CHOICES if choice in doubt.votes)


def _percent(figure: Interval | None) -> str:
    return "-" if figure is None else f"{figure.value:.0%} [{figure.low:.0%}, {figure.high:.0%}]"


def _figure(figure: Interval | None) -> str:
    return "-" if figure is None else f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _count(figure: Interval | None) -> str:
    return "-" if figure is None else str(figure.n)
