"""Draws time series as an SVG: panels one above the other over the same time, with the moments of faults as lines."""

from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 960, 150, 90, 20, 46, 44
COLOURS = ["#0b62a4", "#c4501b", "#3a8f3a"]


def nice(maximum):
    """The end of an axis: 1, 2 or 5 times a power of ten."""
    if maximum <= 0:
        return 1
    power = 10 ** (len(str(int(maximum))) - 1) if maximum >= 1 else 0.1
    return next(step * power for step in (1, 2, 5, 10) if step * power >= maximum)


def draw(title, seconds, panels, marks):
    """`panels` are (title, [(name, [(time, value)])]); `marks` are (time, text)."""
    height = TOP + len(panels) * (PANEL + GAP)
    scale = (WIDTH - LEFT - RIGHT) / max(seconds, 1)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
             f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>']
    for number, (heading, series) in enumerate(panels):
        top = TOP + number * (PANEL + GAP)
        bottom = top + PANEL
        end = nice(max((value for _, points in series for _, value in points), default=1))
        parts.append(f'<text x="{LEFT}" y="{top - 6}">{escape(heading)}</text>')
        for part in range(5):
            y = bottom - PANEL * part / 4
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{end * part / 4:g}</text>')
        for time, text in marks:
            x = LEFT + time * scale
            parts.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="#999999" stroke-dasharray="2 3"><title>{escape(text)}</title></path>')
        for colour, (name, points) in zip(COLOURS, series):
            line = " ".join(f"{LEFT + time * scale:.1f},{bottom - PANEL * min(value / end, 1):.1f}" for time, value in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            if len(series) > 1:
                x = WIDTH - RIGHT - 90 * (len(series) - [name for name, _ in series].index(name))
                parts.append(f'<text x="{x}" y="{top - 6}" fill="{colour}">{escape(name)}</text>')
    for part in range(5):
        x = LEFT + (WIDTH - LEFT - RIGHT) * part / 4
        parts.append(f'<text x="{x:.0f}" y="{height - GAP + 18}" text-anchor="middle">{seconds * part / 4:.0f} s</text>')
    return "\n".join([*parts, "</svg>", ""])
