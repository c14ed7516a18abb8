"""What `clover generate` shows while it runs and says at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli.output import number, tell

if TYPE_CHECKING:
    from clover.agents.load_order import LoadOrder
    from clover.core.rate_search import Trial
    from clover.core.tally import Tally


@contextmanager
def progress_bar(order: LoadOrder) -> Iterator[Callable[[Tally], bool]]:
    """Show a bar on standard error if that is a terminal; gives what takes in the account so far."""
    import time  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415 - keeps --help fast
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    console = Console(stderr=True)
    arrivals = order.arrivals
    loop = "closed loop" if arrivals.concurrency else f"{arrivals.rate_rps:.4g}/s"
    total_s = None if order.duration_s is None else order.warmup_s + order.duration_s
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(loop, total=total_s or order.count, told="")
        began_s = time.monotonic()

        def advance(tally: Tally) -> bool:
            done = min(time.monotonic() - began_s, total_s) if total_s else tally.sent
            warm = f", {tally.warmup} in the warm-up" if tally.warmup else ""
            told = f"{tally.sent} ended, {tally.bad} not in time{warm}"
            progress.update(bar, completed=done, told=told)
            return False

        yield advance


def print_trial(trial: Trial) -> None:
    """Say how one trial of a search went."""
    tell(
        f"{trial.rate_rps:10.4g}/s  {trial.verdict:<9}  {trial.missed} of {trial.sent} missed, "
        f"true share {trial.low_pct:.2f} to {trial.high_pct:.2f} %"
    )


def print_load(result: dict[str, Any]) -> None:
    """Print a load test, or a search, for people."""
    tell(f"load        {result['arrivals']}; seed {result['seed']}, {result['processes']} process(es)")
    if result["interrupted"]:
        tell("            INTERRUPTED: this is what was done until then")
    if "find_max" in result:
        _print_search(result["find_max"])
        return
    if result["loop"] == "closed":
        tell("            CLOSED LOOP: users wait for answers, so a slow service gets less load and looks better")
    requests = result["requests"]
    counts = ", ".join(f"{name} {count}" for name, count in requests.items() if count)
    tell(f"requests    {counts or 'none'}; {result['warmup_requests']} more in {result['warmup_s']:g} s of warm-up")
    tell(
        f"rate        {number(result['rate_rps'], ' requests/s', 2)}, in time {number(result['goodput_rps'], '/s', 2)} "
        f"({number(result['goodput_pct'], ' %', 2)})"
    )
    for name in result["latency_from_due"]:
        due, send = result["latency_from_due"][name], result["latency_from_send"][name]
        tell(f"{name:<11} {_quantile(due)} from due, {_quantile(send)} from send")
    lag = result["dispatch_lag"]
    tell(
        f"lag         p50 {number(lag['p50_ms'], ' ms', 2)}, p99 {number(lag['p99_ms'], ' ms', 2)}, "
        f"max {number(lag['max_ms'], ' ms', 2)} (of the generator itself; limit {lag['limit_ms']:.3g} ms)"
    )
    tell(f"accuracy    {number(result['accuracy_pct'], ' %', 2)} over answered requests")
    _print_energy(result)
    _print_verdict(result)


def _quantile(found: dict[str, Any]) -> str:
    if found["ms"] is None:
        return f"- ({found['note']})"
    high = "without bound" if found["high_ms"] is None else f"{found['high_ms']:.1f}"
    return f"{found['ms']:.1f} ms ({found['low_ms']:.1f} to {high})"


def _print_energy(result: dict[str, Any]) -> None:
    whole = result["whole_deployment"]
    if whole is None:
        tell("energy      not known: the ledger did not catch up in time")
        return
    grams = result["footprint_g_per_request"]
    tell(
        f"energy      {number(result['energy_j_per_request'], ' J', 2)} and "
        f"{number(None if grams is None else 1e3 * grams, ' mgCO2e', 3)} per request ({whole['energy_source']}); "
        f"saved {number(whole['saved_pct'], ' %')} against BASE, {number(whole['saved_pct_rightsized'], ' %')} against "
        "right-sized BASE (modelled)"
    )
    tell(f"            {whole['scope']}")


def _print_verdict(result: dict[str, Any]) -> None:
    for trouble in result["troubles"]:
        tell(f"warning     {trouble}")
    if result["verdict"] == "refused":
        tell(f"verdict     REFUSED: {result['verdict_reason']}")
    for condition in result["conditions"]:
        state = "FAILED" if condition["failed"] else "kept"
        why = f" ({condition['reason']})" if condition["reason"] else ""
        tell(f"{state:<11} fail if {condition['fail_if']}: {number(condition['value'], '', 3)}{why}")


def _print_search(found: dict[str, Any]) -> None:
    rate = found["max_rate_rps"]
    tell(
        f"highest     {number(rate, ' requests/s', 2)} with {found['condition']}; "
        f"{number(found['lowest_missed_rps'], '', 2)} is too much"
    )
    tell(
        f"            {found['outcome']}; {len(found['trials'])} trials of {found['samples']} requests "
        f"(MLPerf's rules: {found['samples_by_mlperf_rules']}), 99 % confidence each"
    )
