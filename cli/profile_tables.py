"""How measurements and performance tables look on a terminal."""

from __future__ import annotations

from typing import Any

from cli.output import number


def print_figures(rows: list[dict[str, Any]], *, title: str) -> None:
    """Print a row per measured instance."""
    table = _table(
        title, ("instance", "requests", "mean ms", "std", "p50", "p95", "p99", "host ms", "J", "start s", "MiB")
    )
    for row in rows:
        table.add_row(
            f"gpu{row['gpu']} {row['profile']}:{row['variant']}",
            str(row["requests"]),
            *(f"{row[name]:.1f}" for name in ("mean_ms", "std_ms", "p50_ms", "p95_ms", "p99_ms", "host_ms")),
            f"{row['energy_j']:.3f}",
            f"{row['start_s']:.1f}",
            f"{row['memory_mib']:.0f}",
        )
    _print(table)


def print_table(table: dict[str, Any]) -> None:
    """Print a performance table: the times per variant and profile, then where they come from."""
    profiles = sorted({p for v in table["variants"].values() for p in v["service_ms"]}, reverse=True)
    shown = _table(
        f"{table['application']} on {table['gpu_model']}", ("variant", "host ms", *(f"{p} ms" for p in profiles), "J")
    )
    for name, figures in table["variants"].items():
        times = (
            "no memory" if p in figures["out_of_memory_on"] else number(figures["service_ms"].get(p)) for p in profiles
        )
        shown.add_row(name, f"{figures['host_ms']:.1f}", *times, f"{figures['dynamic_energy_j']:.3f}")
    _print(shown)
    print(f"promise     p95 {table['sla_p95_ms']:g} ms ({table['sla_source']})")
    print(f"spread      host {table['host_lognormal_sigma']:g}, instance {table['gpu_lognormal_sigma']:g} (log-normal)")
    if table.get("transport_ms"):
        print(f"transport   {table['transport_ms']:.1f} ms beside the service ({table['transport_source']})")
    if table.get("batch_size", 1) > 1:
        print(f"batches     times are of {table['batch_size']} requests that are answered together, J of one")
    print(f"power       idle {table['idle_power_w']:g} W, parked {table['parked_power_w']:g} W per GPU")
    print(f"source      {table['provenance']}")
    for cell, reason in table.get("measurement", {}).get("not_measured", {}).items():
        print(f"missing     {cell}: {reason}")


def print_difference(rows: list[dict[str, Any]], first: str, second: str) -> None:
    """Print the figures of two tables side by side."""
    table = _table("difference", ("figure", first, second, "change"))
    for row in rows:
        change = "-" if row["change_pct"] is None else f"{row['change_pct']:+.1f} %"
        table.add_row(row["figure"], number(row["first"], digits=3), number(row["second"], digits=3), change)
    _print(table)


def _table(title: str, headers: tuple[str, ...]) -> Any:
    # Only people need rich; a script that asks for JSON does not wait for it.
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title)
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index == 0 else "right")
    return table


def _print(table: Any) -> None:
    from rich.console import Console  # noqa: PLC0415

    Console().print(table)
