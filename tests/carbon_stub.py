"""A stub of every live carbon API: real HTTP on a socket, or the same answers inside a virtual loop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

TOKEN = "token-1"
USER, PASSWORD, KEY = "user-of-stub", "password-of-stub", "key-of-stub"
ENVIRONMENT = {
    "CLOVER_ELECTRICITYMAPS_KEY": KEY,
    "CLOVER_WATTTIME_USER": USER,
    "CLOVER_WATTTIME_PASSWORD": PASSWORD,
    "CLOVER_EIA_KEY": KEY,
}


@dataclass
class Ask:
    """A request as the stub sees it."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Reply:
    """What to answer: `slow` sends the head and then nothing for a while, `cut` stops in the middle of the body."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    slow: bool = False
    cut: bool = False
    refuse: bool = False

    def raw(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Play = Callable[[Ask], Reply]


class Stub:
    """Plays `play`, which a test may change at any time, and remembers what was asked."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.asked: list[Ask] = []
        self.released = threading.Event()

    def answer(self, path: str, headers: dict[str, str]) -> Reply:
        parts = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        ask = Ask(parts.path, query, {key.lower(): value for key, value in headers.items()})
        self.asked.append(ask)
        return self.play(ask)

    @contextlib.contextmanager
    def served(self, port: int = 0) -> Iterator[str]:
        """Serve on a socket; yields the address."""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                reply = stub.answer(self.path, dict(self.headers.items()))
                raw = reply.raw()
                if reply.refuse:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for key, value in reply.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                if reply.slow:
                    stub.released.wait(20.0)
                self.wfile.write(raw[: len(raw) // 2] if reply.cut else raw)
                self.close_connection = reply.cut or reply.slow

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            self.released.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def transport(self) -> httpx.MockTransport:
        """Answer inside an event loop, so that hours of virtual time pass at once."""

        async def handle(request: httpx.Request) -> httpx.Response:
            reply = self.answer(str(request.url), dict(request.headers))
            if reply.refuse:
                raise httpx.ConnectError("refused", request=request)
            if reply.slow:
                await asyncio.sleep(3600.0)
            if reply.cut:
                raise httpx.RemoteProtocolError("cut", request=request)
            return httpx.Response(reply.status, headers=reply.headers, content=reply.raw())

        return httpx.MockTransport(handle)


def stamp(at_s: float, form: str = "%Y-%m-%dT%H:%MZ") -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime(form)


def parse(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


# --- the APIs, right answers only: value(at_s) gives the truth in g/kWh -----------------------------------------------


def neso(now_s: Callable[[], float], value: Callable[[float], float], *, slot_s: float = 1800.0) -> Play:
    form = "%Y-%m-%dT%H:%MZ" if slot_s % 60 == 0 else "%Y-%m-%dT%H:%M:%SZ"

    def slot(at_s: float) -> dict[str, Any]:
        actual = value(at_s) if at_s + slot_s <= now_s() else None
        figures = {"forecast": value(at_s), "actual": actual, "index": "moderate"}
        return {"from": stamp(at_s, form), "to": stamp(at_s + slot_s, form), "intensity": figures}

    def slots(from_s: float, to_s: float) -> list[dict[str, Any]]:
        first = from_s // slot_s
        return [slot(n * slot_s) for n in range(int(first), int(to_s // slot_s) + 1)]

    def play(ask: Ask) -> Reply:
        parts = [part for part in ask.path.split("/") if part]
        now = now_s() // slot_s * slot_s
        if parts == ["intensity"]:
            return Reply({"data": [slot(now)]})
        if parts[:2] == ["regional", "regionid"]:
            return Reply({"data": [{"regionid": int(parts[2]), "shortname": "x", "data": [slot(now)]}]})
        times = parts[2:] if parts[0] == "regional" else parts[1:]
        from_s = parse(times[0])
        to_s = from_s + float(times[1][2:4]) * 3600.0 if times[1].startswith("fw") else parse(times[1])
        data = slots(from_s, to_s)
        if parts[0] == "regional":
            return Reply({"data": {"regionid": int(parts[-1]), "shortname": "x", "data": data}})
        return Reply({"data": data})

    return play


def energidataservice(now_s: Callable[[], float], value: Callable[[float], float]) -> Play:
    def play(ask: Ask) -> Reply:
        area = json.loads(ask.query["filter"])["PriceArea"][0]
        first, last = parse(ask.query["start"]), parse(ask.query["end"])
        until = min(last, now_s() - 600.0) if ask.path.endswith("CO2Emis") else last
        found = [n * 300.0 for n in range(int(first // 300), int(until // 300) + 1)]
        records = [
            {
                "Minutes5UTC": stamp(at, "%Y-%m-%dT%H:%M:%S"),
                "Minutes5DK": stamp(at + 3600, "%Y-%m-%dT%H:%M:%S"),
                "PriceArea": area,
                "CO2Emission": value(at),
            }
            for at in found
        ]
        return Reply({"total": len(records), "dataset": "CO2Emis", "records": records})

    return play


def electricitymaps(now_s: Callable[[], float], value: Callable[[float], float]) -> Play:
    def point(at_s: float) -> dict[str, Any]:
        return {
            "carbonIntensity": value(at_s),
            "datetime": stamp(at_s, "%Y-%m-%dT%H:%M:%S.000Z"),
            "updatedAt": stamp(at_s, "%Y-%m-%dT%H:%M:%S.000Z"),
            "isEstimated": False,
        }

    def play(ask: Ask) -> Reply:
        assert ask.query["shouldUseFallbackCallerLookup"] == "false"
        if ask.headers.get("auth-token") != KEY:
            return Reply({"error": "Invalid token"}, status=401)
        zone, hour = ask.query["zone"], now_s() // 3600 * 3600
        if ask.path.endswith("latest"):
            return Reply({"zone": zone, "emissionFactorType": ask.query["emissionFactorType"], **point(hour)})
        if ask.path.endswith("history"):
            return Reply({"zone": zone, "history": [point(hour - 3600 * n) for n in range(23, -1, -1)]})
        return Reply({"zone": zone, "forecast": [point(hour + 3600 * n) for n in range(25)]})

    return play


def watttime(now_s: Callable[[], float], value: Callable[[float], float]) -> Play:
    def play(ask: Ask) -> Reply:
        if ask.path == "/login":
            basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            return Reply({"token": TOKEN}) if ask.headers.get("authorization") == basic else Reply({}, status=401)
        if ask.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply({"error": "token expired"}, status=401)
        now = now_s() // 300 * 300
        times = [now + 300 * n for n in range(25)]
        if ask.path.endswith("historical"):
            first, last = parse(ask.query["start"][:19]), min(now, parse(ask.query["end"][:19]))
            times = [n * 300.0 for n in range(int(first // 300), int(last // 300) + 1)]
        meta = {
            "region": ask.query["region"],
            "signal_type": ask.query["signal_type"],
            "units": "lbs_co2_per_mwh",
            "data_point_period_seconds": 300,
        }
        points = [{"point_time": stamp(at, "%Y-%m-%dT%H:%M:%S+00:00"), "value": value(at) / 0.45359237} for at in times]
        return Reply({"meta": meta, "data": points})

    return play


def eia(now_s: Callable[[], float], value: Callable[[float], float], *, page: int = 5000) -> Play:
    """Two fuels of 490 and 0 + 12 g/kWh (lifecycle gas and nuclear), mixed so that the right value results."""

    def play(ask: Ask) -> Reply:
        if ask.query["api_key"] != KEY:
            return Reply({"error": {"code": "API_KEY_INVALID", "message": "bad key"}}, status=403)
        first, last = parse(ask.query["start"] + ":00"), min(parse(ask.query["end"] + ":00"), now_s() - 7200.0)
        rows: list[dict[str, Any]] = []
        for hour in range(int(last // 3600), int(first // 3600) - 1, -1):
            gas = (value(hour * 3600.0 - 3600.0) - 12.0) / (490.0 - 12.0)
            for fuel, share in (("NG", gas), ("NUC", 1.0 - gas)):
                rows.append(
                    {
                        "period": stamp(hour * 3600.0, "%Y-%m-%dT%H"),
                        "respondent": ask.query["facets[respondent][]"],
                        "fueltype": fuel,
                        "value": str(1000.0 * share),
                        "value-units": "megawatthours",
                    }
                )
        offset = int(ask.query["offset"])
        return Reply({"response": {"total": str(len(rows)), "data": rows[offset : offset + page]}})

    return play


PLAYS: dict[str, Callable[[Callable[[], float], Callable[[float], float]], Play]] = {
    "neso": neso,
    "energidataservice": energidataservice,
    "electricitymaps": electricitymaps,
    "electricitymaps-v4": electricitymaps,
    "watttime": watttime,
    "watttime-average": watttime,
    "eia": eia,
}
ZONES = {
    "neso": "GB",
    "energidataservice": "DK1",
    "electricitymaps": "DE",
    "electricitymaps-v4": "DE",
    "watttime": "CAISO_NORTH",
    "watttime-average": "CAISO_NORTH",
    "eia": "CISO",
}


def edited(play: Play, edit: Callable[[Ask, Any], Any]) -> Play:
    """Change the body of every right answer."""

    def changed(ask: Ask) -> Reply:
        reply = play(ask)
        return Reply(edit(ask, reply.body)) if reply.status == 200 else reply

    return changed
