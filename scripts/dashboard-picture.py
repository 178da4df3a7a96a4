#!/usr/bin/env python3
"""dashboard-picture.py PROMETHEUS OUT.png [MINUTES] : draws what the dashboard's queries return.

This is no Grafana: it reads deploy/grafana/dashboards/imaptrace.json, asks each query of a running Prometheus for the last
MINUTES (20), draws the answers as plainly as it can, and has a headless Chromium take the picture. For a look at the
dashboard where Grafana is not to be had, and for docs/images/dashboard.png. Debian: python3, chromium, pngquant.
"""

import html
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

DASHBOARD = pathlib.Path(__file__).parent.parent / "deploy/grafana/dashboards/imaptrace.json"
WIDTH, ROW = 1200, 27  # pixels: of the page, and of a row of Grafana's grid
COLOURS = ["#3274d9", "#e0752d", "#56a64b", "#a352cc", "#c4162a", "#1fa5a5", "#e0b400", "#7a5230", "#e05ca8", "#666666", "#00306e"]
REPEATED = ["LIST", "SELECT", "FETCH"]  # commands for the panel that repeats itself


def ask(prometheus, query, start, end, step):
    api = "query_range" if step else "query"
    form = {"query": query, **({"start": start, "end": end, "step": step} if step else {"time": end})}
    with urllib.request.urlopen(f"{prometheus}/api/v1/{api}?{urllib.parse.urlencode(form)}") as answer:
        return json.load(answer)["data"]["result"]


def number(text):
    value = float(text)
    return value if math.isfinite(value) else None


def shown(value, unit, decimals=None):
    if value is None:
        return ""
    if unit == "s":
        for size, name in [(86400, " d"), (3600, " h"), (60, " min"), (1, " s")]:
            if abs(value) >= size:
                return f"{value / size:.{0 if abs(value) >= 100 * size else 2}f}{name}"
        return f"{value * 1000:.3g} ms"
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit == "Bps":
        return f"{value / 1e3:.3g} kB/s"
    return f"{value:.0f}" if decimals == 0 else f"{value:.4g}"


def legend(target, series):
    text = target.get("legendFormat", "")
    for label in sorted(series["metric"], key=len, reverse=True):
        text = text.replace("{{%s}}" % label, series["metric"][label])
    while "{{" in text:
        text = text[: text.index("{{")] + text[text.index("}}") + 2 :]
    return text.strip()


def colour(value, defaults):
    for each in defaults.get("mappings", []):
        if str(int(value)) in each["options"]:
            return each["options"][str(int(value))]["color"], each["options"][str(int(value))]["text"]
    chosen = "white"
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            chosen = step["color"]
    return chosen, None


class Plot:
    """An SVG with time from left to right and figures from below to above."""

    def __init__(self, width, height, start, end, top, unit, left=58):
        self.left, self.width, self.height, self.start, self.end = left, width - left - 6, height - 22, start, end
        self.top, self.parts = top or 1, [f'<svg width="{width}" height="{height}">']
        for share in (0, 0.5, 1):
            y = self.y(self.top * share)
            self.parts.append(f'<path d="M{self.left} {y:.0f}H{width}" stroke="#ddd"/>')
            if unit is not None:
                self.text(self.left - 4, y + 4, shown(self.top * share, unit), "end")
        for share in (0.02, 0.5, 0.95):
            moment = time.strftime("%H:%M", time.gmtime(start + share * (end - start)))
            self.text(self.left + share * self.width, height - 3, moment, "middle")

    def x(self, moment):
        return self.left + (moment - self.start) / (self.end - self.start) * self.width

    def y(self, value):
        return 6 + (1 - value / self.top) * (self.height - 6)

    def text(self, x, y, text, anchor):
        self.parts.append(f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{html.escape(text)}</text>')

    def box(self, x, y, width, height, fill):
        width, x = x + width - max(x, self.left), max(x, self.left)
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>')

    def done(self):
        return "".join(self.parts) + "</svg>"


def lines(panel, answers, width, height, span):
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    stacked, bars = "stacking" in custom, custom.get("drawStyle") == "bars"
    drawn, below = [], {}
    for target, result in answers:
        for series in result:
            points = [(float(t), number(v)) for t, v in series["values"]]
            if all(value is None for _, value in points):
                continue
            if stacked:
                under = [below.get(t, 0) for t, _ in points]
                below.update({t: low + (v or 0) for (t, v), low in zip(points, under)})
                points = [(t, low + (v or 0), low) for (t, v), low in zip(points, under)]
            drawn.append((legend(target, series), points))
    top = max((point[1] for _, points in drawn for point in points if point[1] is not None), default=1)
    plot = Plot(width, height - 34, span[0], span[1], top, panel["fieldConfig"]["defaults"].get("unit", ""))
    for index, (_, points) in enumerate(drawn):
        chosen = COLOURS[index % len(COLOURS)]
        if stacked:
            wide = plot.width * span[2] / (span[1] - span[0]) * (0.7 if bars else 1.05)
            for moment, high, low in points:
                plot.box(plot.x(moment) - wide, plot.y(high), wide, plot.y(low) - plot.y(high), chosen)
        else:
            path, pen = "", "M"
            for moment, value in points:
                path += "" if value is None else f"{pen}{plot.x(moment):.0f} {plot.y(value):.1f}"
                pen = "M" if value is None else "L"
            plot.parts.append(f'<path d="{path}" fill="none" stroke="{chosen}" stroke-width="1.5"/>')
    names = (f'<span style="color:{COLOURS[i % len(COLOURS)]}">&#9632;</span> {html.escape(name)}' for i, (name, _) in enumerate(drawn))
    return plot.done() + f'<div class="legend">{" &nbsp;".join(names)}</div>'


def heatmap(panel, answers, width, height, span):
    rows = sorted((s for _, result in answers for s in result), key=lambda s: float(s["metric"]["le"]))
    cells, before, least, most = [], {}, len(rows), 0
    for index, series in enumerate(rows):
        for moment, value in series["values"]:
            count = (number(value) or 0) - before.get(moment, 0)
            before[moment] = number(value) or 0
            if count > 0.01:
                cells.append((float(moment), index, count))
                least, most = min(least, index), max(most, index)
    plot = Plot(width, height, span[0], span[1], most - least + 1, None)
    peak, tall = max((count for _, _, count in cells), default=1), plot.y(0) - plot.y(1)
    for moment, index, count in cells:
        wide = plot.width * span[2] / (span[1] - span[0])
        shade = 92 - 55 * math.sqrt(count / peak)
        plot.box(plot.x(moment) - wide, plot.y(index - least + 1), wide - 1, tall - 1, f"hsl(24 90% {shade:.0f}%)")
    for index in range(least, most + 1):
        plot.text(plot.left - 4, plot.y(index - least + 0.5) + 4, shown(number(rows[index]["metric"]["le"]), "s") or "more", "end")
    return plot.done()


def timeline(panel, answers, width, height, span):
    rows = [(legend(target, series), series["values"]) for target, result in answers for series in result]
    plot = Plot(width, height, span[0], span[1], len(rows), None, 80)
    for index, (name, values) in enumerate(sorted(rows, reverse=True)):
        plot.text(plot.left - 4, plot.y(index + 0.4), name[:14], "end")
        wide = plot.width * span[2] / (span[1] - span[0]) + 0.5
        for moment, value in values:
            fill = {"green": "#73bf69", "red": "#f2495c"}[colour(float(value), panel["fieldConfig"]["defaults"])[0]]
            plot.box(plot.x(float(moment)) - wide, plot.y(index + 0.9), wide, plot.y(0.1) - plot.y(0.9), fill)
    return plot.done()


def stat(panel, answers, width, height, span):
    out, defaults = "", panel["fieldConfig"]["defaults"]
    for target, result in answers:
        for series in result:
            value = number(series["value"][1])
            fill, text = colour(value or 0, defaults)
            fill = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}.get(fill, fill)
            text = text or shown(value, defaults.get("unit", ""))
            out += f'<div class="figure" style="background:{fill}">{html.escape(text)}<small>{html.escape(legend(target, series))}</small></div>'
    return f'<div class="stats">{out or "no data"}</div>'


def table(panel, answers, width, height, span):
    rename, hidden = {}, {}
    for each in panel.get("transformations", []):
        rename.update(each["options"].get("renameByName", {}))
        hidden.update(each["options"].get("excludeByName", {}))
    rows, labels = {}, []
    for target, result in answers:
        value = "Value" if len(answers) == 1 else f"Value #{target['refId']}"
        for series in result:
            key = tuple(sorted(series["metric"].items()))
            labels += [label for label in series["metric"] if label not in labels and label not in hidden]
            rows.setdefault(key, {})[value] = number(series["value"][1])
    labels.sort(key=lambda label: (rename.get(label) != "server", label != "alertname"))
    values = [] if hidden.get("Value") else sorted({value for row in rows.values() for value in row})
    defaults = panel["fieldConfig"]["defaults"]
    own = {(each["matcher"]["options"], p["id"]): p["value"] for each in panel["fieldConfig"]["overrides"] for p in each["properties"]}

    def text(name, value):
        name = rename.get(name, name)
        get = lambda key, otherwise: own.get((name, key), defaults.get(key, otherwise))  # noqa: E731
        return shown(value, get("unit", ""), get("decimals", None))

    by = next(iter(panel["options"].get("sortBy", [])), None)
    order = list(rows.items())
    if by:
        column = next(name for name in values if rename.get(name, name) == by["displayName"])
        order.sort(key=lambda row: row[1].get(column) or 0, reverse=by["desc"])
    head = "".join(f"<th>{html.escape(rename.get(name, name))}</th>" for name in labels + values)
    body = ""
    for key, row in order:
        cells = [dict(key).get(label, "") for label in labels]
        cells += [text(name, row.get(name)) for name in values]
        body += "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


DRAW = {"timeseries": lines, "heatmap": heatmap, "state-timeline": timeline, "stat": stat, "table": table}


def page(prometheus, minutes):
    end = time.time()
    span = (end - minutes * 60, end, max(5, minutes * 60 // 80))
    panels = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        copies = REPEATED if "repeat" in panel else [None]
        for index, command in enumerate(copies):
            panels.append((panel, command, panel["gridPos"]["x"] + index * panel["gridPos"]["w"]))
    out, bottom = "", 0
    for panel, command, x in panels:
        variables = {"$__rate_interval": "60s", "$__range": f"{minutes}m", "$target": ".*", "$account": ".*", "$journey": ".*", "$command": command or "[A-Z]+"}
        answers = []
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in variables.items():
                query = query.replace(name, value)
            answers.append((target, ask(prometheus, query, span[0], span[1], None if target.get("instant") else span[2])))
        place = panel["gridPos"]
        bottom = max(bottom, (place["y"] + place["h"]) * ROW)
        width, height = place["w"] * WIDTH // 24 - 24, place["h"] * ROW - 44
        inner = DRAW[panel["type"]](panel, answers, width, height, span) if answers else ""
        title = html.escape(panel["title"].replace("$command", command or ""))
        style = f"left:{x * WIDTH / 24:.0f}px;top:{place['y'] * ROW}px;width:{place['w'] * WIDTH // 24 - 6}px;height:{place['h'] * ROW - 6}px"
        out += f'<section class="{panel["type"]}" style="{style}"><h1>{title}</h1>{inner}</section>'
    style = """body{margin:0;background:#f4f5f5;font:12px sans-serif;color:#222} section{position:absolute;background:#fff;border:1px solid #ddd;
      box-sizing:border-box;padding:4px 8px;overflow:hidden} section.row{background:none;border:0} h1{font:bold 12px sans-serif;margin:0 0 6px}
      .row h1{font-size:14px} text{font:10px sans-serif;fill:#555} .legend{font-size:11px;line-height:15px} table{border-collapse:collapse;width:100%}
      th,td{text-align:left;padding:2px 6px;border-bottom:1px solid #eee} .stats{display:flex;gap:4px;height:70px} .figure{flex:1;font:bold 22px sans-serif;
      display:flex;flex-direction:column;align-items:center;justify-content:center} small{font:11px sans-serif}"""
    return f'<!doctype html><meta charset="utf-8"><style>{style}</style><body>{out}</body>', bottom


def main():
    prometheus, out = sys.argv[1].rstrip("/"), pathlib.Path(sys.argv[2]).resolve()
    text, height = page(prometheus, int(sys.argv[3]) if len(sys.argv) > 3 else 20)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "dashboard.html"
        file.write_text(text)
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        picture = [f"--screenshot={out}", f"--window-size={WIDTH},{height}", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
        subprocess.run(["chromium", "--headless", "--disable-gpu", *root, *quiet, *picture, file.as_uri()], check=True, capture_output=True, timeout=60)
    subprocess.run(["pngquant", "--force", "--output", str(out), "64", str(out)], check=True)
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
