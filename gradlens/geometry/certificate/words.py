"""Why a certificate reads as it does, and what to do: one sentence each."""

from collections.abc import Sequence
from math import isnan, nan

from gradlens.geometry.certificate.verdicts import Direction, Row, failing, overall, verdicts_of

EFFECT = {"forward": "a constant comes out with", "backward": "the gradient of the input has"}


def words(
    name: str, direction: Direction, rows: Sequence[Row], size: Sequence[int], larger: Sequence[int] | None
) -> tuple[str, str]:
    """Why and remedy of the certificate of the module called `name`."""
    verdict = overall(rows)
    if verdict == "not decidable":
        return _not_decidable(name, direction, rows, size, larger)
    if verdict == "vacuous":
        return (
            f"{name} answers no constant: a dead ReLU, or a norm that removes constants" if direction == "forward"
            else f"{name} passes no gradient back",
            "certify it with weights that let something through, or the part without the norm",
        )  # fmt: skip
    if verdict == "pass":
        return _passes(name, direction, rows), ""
    return _fails(name, direction, rows)


def _fails(name: str, direction: Direction, rows: Sequence[Row]) -> tuple[str, str]:
    verdicts = verdicts_of(rows)
    bad = [statement for statement, verdict in verdicts.items() if verdict in ("fail", "level-dependent")]
    periods = failing([r for r in rows if r.statement in bad])
    worst = max(r.deviation for r in rows if r.verdict == "fail")
    what = f"{EFFECT[direction]} period {_listed(periods)}"
    if verdicts.get("holes") == "fail":
        return f"{name} leaves holes: its kernel is smaller than its stride, no tap reaches some phases", (
            "enlarge the kernel to a multiple of the stride, or hold its output over the stride" if direction == "forward"
            else "enlarge the kernel to a multiple of the stride, or blur or hold before it"
        )  # fmt: skip
    if bad and bad[0] == "biases":
        return (
            f"{name} has even filters, but the biases of its phases differ by up to {percent(worst)} (eq. 9): {what}",
            "give all phases of a channel one bias, or add the bias behind the shuffle",
        )
    if "level-dependent" in verdicts.values():
        good = sorted({r.level for r in rows} - {r.level for r in rows if r.verdict != "pass"} - {nan})
        failed = sorted({r.level for r in rows if r.verdict == "fail"})
        return (
            f"{name} holds at level {_listed(good) or 'none'} and fails at {_listed(failed)} by up to {percent(worst)}: {what} "
            "where a non-linear layer changes what the phases see (eq. 10)",
            _remedy(direction),
        )
    if direction == "backward" and bad == ["energy"]:
        return (
            f"{name} hands every phase the same sum, but not the same energy, it differs by up to {percent(worst)}: {what}",
            "blur or hold before the stride with a kernel whose phases have one energy, or pool averages",
        )
    equation = {"filters": " (eq. 8)", "response": " (eq. 7)"}.get(bad[0], "")
    return f"{name} fails: {what}, phases differ by up to {percent(worst)}{equation}", _remedy(direction)


def _remedy(direction: Direction) -> str:
    if direction == "forward":
        return "put a zero-order hold as long as its stride behind each layer that enlarges, or resize and convolve instead"
    return "put a blur or a zero-order hold before each layer that strides, or an average in place of a max-pool"


def _passes(name: str, direction: Direction, rows: Sequence[Row]) -> str:
    periods = sorted({r.period for r in rows if r.period > 1})
    worst = max(r.deviation for r in rows if not isnan(r.deviation))
    floor = max(r.floor for r in rows if not isnan(r.floor))
    if not periods:
        return f"{name} has no phases: it moves its response by single pixels"
    sure = (
        f"within {percent(floor)}, which is what chance makes" if floor else f"to {worst:.0e}" if worst else "exactly"
    )
    subject = "constants stay constant" if direction == "forward" else "the gradient is even over phases"
    return f"{name}: {subject} at period {_listed(periods)}, {sure}"


def _not_decidable(
    name: str, direction: Direction, rows: Sequence[Row], size: Sequence[int], larger: Sequence[int] | None
) -> tuple[str, str]:
    if any(r.period == 0 for r in rows):
        why = (
            f"no shift of the input of {tuple(size)} moves the response of {name} as a whole: it is smaller than the "
            "receptive field, or a dense layer, an embedding of positions or noise inside depends on the place"
        )
    elif direction == "forward":
        why = f"at {tuple(size)} no part of the output of {name} is far enough from the border"
    else:
        why = f"at {tuple(size)} the gradient of {name} reaches the border, or chance alone makes as much"
    if larger is not None:
        return why, f"give input_size {tuple(larger)}"
    return why, "give an input_size that holds its receptive field twice, or certify its layers one by one"


def percent(value: float) -> str:
    """A relative deviation for people."""
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"


def _listed(values: Sequence[float]) -> str:
    texts = [f"{v:g}" for v in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""
