"""A run as one HTML page: no script, no font and no picture from anywhere, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from output import page_tables as tables
from output.plots import load_curves, plots
from output.read_run import RunFiles

# c0 to c6 can be told apart by people who see no red, no green or no blue, too, on both grounds;
# lines have a pattern of dashes besides.
STYLE = """
:root{--bg:#ffffff;--fg:#1c2128;--dim:#5b6672;--rule:#d8dee4;--card:#f6f8fa;--good:#1a7f37;
--bad:#cf222e;--c0:#113d9c;--c1:#db6703;--c2:#ad6ac5;--c3:#01a460;--c4:#674a04;--c5:#e52c3e;--c6:#686b6e}
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--dim:#9aa5b1;--rule:#30363d;
--card:#161b22;--good:#3fb950;--bad:#ff7b72;--c0:#447dfe;--c1:#f38b44;--c2:#af5db3;--c3:#29f0a1;
--c4:#f5d71c;--c5:#da3b50;--c6:#aab4bd}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1360px;padding:20px 24px 60px;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
h1{font-size:24px;line-height:1.25;margin:4px 0 2px}h2{font-size:18px;margin:32px 0 10px}
h3{font-size:15px;margin:0 0 6px}p{margin:6px 0}.dim{color:var(--dim)}.good{color:var(--good)}
.bad{color:var(--bad)}code{font-size:13px;white-space:nowrap}
.banner{border-left:6px solid var(--bad);background:var(--card);padding:10px 16px;margin:14px 0}
.banner b{color:var(--bad);font-size:20px}.note{border-color:var(--c4)}
.cards{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(115px,1fr));margin:16px 0}
.cards div{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 14px}
.cards b{display:block;font-size:20px;white-space:nowrap;font-variant-numeric:tabular-nums}
.cards span{color:var(--dim);font-size:13px}
.plots{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr))}
.two{display:grid;gap:0 32px;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr))}
.two>section{min-width:0}
.plot{border:1px solid var(--rule);border-radius:8px;padding:12px 14px 8px;min-width:0}
figure{margin:0}svg{display:block;width:100%;height:auto}
figcaption{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:13px;color:var(--dim);min-height:20px;
padding-left:10%}
.key{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}
figcaption svg{display:inline-block;width:28px;height:8px;margin-right:6px;vertical-align:middle}
svg text{font-size:12px;fill:var(--dim)}svg .end{text-anchor:end}svg .mid{text-anchor:middle}
svg .name{fill:var(--fg)}svg .halo{fill:var(--bad);paint-order:stroke;stroke:var(--bg);
stroke-width:4}
.grid{stroke:var(--rule);stroke-width:1;fill:none}.axis{stroke:var(--dim);fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.bar{fill:var(--c0);opacity:.75}
.line.s2{stroke-dasharray:7 4}.line.s3{stroke-dasharray:11 3 2 3}
.line.s4{stroke-dasharray:.1 5;stroke-width:3;stroke-linecap:round}.line.s5{stroke-dasharray:3 3}
.mark{fill:none;stroke-width:1.75}.mark.s2{stroke-dasharray:7 4}.mark.s3{stroke-dasharray:11 3 2 3}
.mark.s5{stroke-dasharray:5 3}.mark.s6{stroke-dasharray:2 4}
.stack{display:flex;gap:2px;height:22px;border-radius:4px;overflow:hidden;margin:8px 0}
.stack i{min-width:0}
details{margin:32px 0}summary{cursor:pointer;font-size:18px;font-weight:600;margin-bottom:10px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--rule);vertical-align:top;
overflow-wrap:anywhere}
th:first-child,td:first-child{min-width:100px}
td>b{white-space:nowrap}
th{color:var(--dim);font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;
white-space:nowrap}th.n{white-space:normal;vertical-align:bottom}td .dim{font-size:13px}
@media print{body{max-width:none}.plot{break-inside:avoid}}
""" + "".join(
    f".s{n}{{stroke:var(--c{n})}}.b{n}{{background:var(--c{n})}}.d{n}{{fill:var(--c{n})}}"
    for n in range(7)
)


def report_page(run: RunFiles, refresh_s: int = 0) -> str:
    """The whole page; `refresh_s` above 0 has the browser load it again, for a running test."""
    summary = run.summary
    header = summary["header"]
    drawn = [*load_curves(run.trials), *plots(summary, run.results)]
    title = f"Load test: {header.get('workload', 'unknown workload')}"
    body = (
        f"<h1>{escape(title)}</h1>{_subtitle(header)}{_banners(run)}"
        f"{_section('Objectives', tables.slos_table(summary))}{_cards(summary)}"
        f'<h2>Plots</h2><div class="plots">{"".join(map(plot_box, drawn))}</div>'
        f"{_section('Times', tables.metrics_table(summary))}{_workloads(summary)}"
        f'{_models(summary)}<div class="two">{_tables(summary)}</div>{_options(header)}'
    )
    return document(title, body, refresh_s)


def document(title: str, body: str, refresh_s: int = 0) -> str:
    """HTML around a `body` of HTML, with its style."""
    again = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark">{again}<title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def _workloads(summary: Mapping[str, Any]) -> str:
    body = tables.workloads_table(summary)
    return _section("By workload", body) if body else ""


def _models(summary: Mapping[str, Any]) -> str:
    body = tables.models_table(summary)
    return _section("The server's models, by Triton's counters", body) if body else ""


def _options(header: Mapping[str, Any]) -> str:
    return f"<details><summary>Options</summary>{tables.options_table(header)}</details>"


def _tables(summary: Mapping[str, Any]) -> str:
    journeys = tables.journeys_table(summary)
    sections = [
        ("Where the mean TTFT was spent", tables.split_table(summary)),
        ("Rates", tables.rates_table(summary)),
        ("Failures", tables.failures_table(summary)),
        ("Fault journeys, in no other figure", journeys),
        ("The client itself", tables.workers_table(summary)),
    ]
    return "".join(_section(title, body) for title, body in sections if body)


def _subtitle(header: Mapping[str, Any]) -> str:
    rate = header.get("rate")
    asked = f"closed loop of {header.get('users', '?')} user(s)"
    if not header.get("closed_loop"):
        asked = f"{header.get('arrivals', 'unknown')} arrivals"
        asked += f" at {rate:.4g} requests/s" if rate else ""
    served = [
        f"{header.get('model', 'unknown model')} at {header.get('url', 'an unknown address')}",
        *tables.described(header.get("served") or {}),
    ]
    parts = [
        asked,
        f"{header.get('duration_s') or 0:.0f} s measured after "
        f"{header.get('warmup_s') or 0:.3g} s of warm-up",
        f"seed {header.get('seed', 'unknown')}",
        tables.when(header),
    ]
    machine = header.get("machine", "not recorded")
    lines = [*(" · ".join(each) for each in (served, parts)), f"client's machine: {machine}"]
    return f'<p class="dim">{"<br>".join(map(escape, lines))}</p>'


def _banners(run: RunFiles) -> str:
    summary = run.summary
    reasons = summary["validity"]["reasons"]
    told = [] if summary["counts"]["scheduled"] else ["no request was measured"]
    told += [*run.notes, *(each for each in summary.get("incidents", []) if each not in reasons)]
    told += summary["validity"].get("doubts", [])
    if problem := (summary.get("server") or {}).get("problem"):
        told.append(problem)
    invalid = "" if summary["validity"]["valid"] else _banner("INVALID", reasons, "")
    return invalid + (_banner("", told, "note") if told else "")


def _banner(word: str, sentences: Sequence[str], kind: str) -> str:
    lines = "".join(f"<p>{escape(_sentence(each))}</p>" for each in sentences)
    return f'<div class="banner {kind}">{f"<b>{word}</b>" if word else ""}{lines}</div>'


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a file's name."""
    return text if "." in text.split(" ")[0] else text[:1].upper() + text[1:]


def _cards(summary: Mapping[str, Any]) -> str:
    rates, metrics = summary["rates"], summary["metrics"]
    share = rates.get("goodput_share")
    failed = summary["counts"]["failed"] + summary["counts"]["incorrect"]
    cards = [
        *(
            (tables.duration(metrics[name][percentile]), f"{name} {percentile}")
            for name in ("ttft", "itl")
            for percentile in ("p50", "p99")
        ),
        (tables.number(rates["output_tokens_per_s"], 0), "output tokens/s"),
        (tables.number(rates["requests_per_s"]), "requests/s"),
        ("-" if share is None else f"{share:.1%}", "kept every SLO"),
        (f"{failed:,}", "failed or incorrect"),
    ]
    boxes = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in cards)
    return f'<div class="cards">{boxes}</div>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def plot_box(titled: tuple[str, str]) -> str:
    """A titled figure; "" for the figure says that there is nothing to show."""
    title, figure = titled
    return (
        f'<div class="plot"><h3>{escape(title)}</h3>'
        f"{figure or '<p class=dim>Nothing to show.</p>'}</div>"
    )
