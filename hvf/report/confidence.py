"""How sure a run's answers are, as the page takes it: coverage, size of the sets, reliability."""

from __future__ import annotations

from typing import Any

from hvf.report.folder import Folder

SHOWN = {"brain": "from the brain", "permuted": "shuffled trials, calibrated on shuffled trials"}


def confidence(folder: Folder) -> dict[str, Any]:
    """Lines of the table and points of the reliability diagram; {} for a folder without them."""
    details = folder.result.details.get("confidence", {}) if folder.result else {}
    if not details:
        return {}
    rows = details["rows"]
    matched = next((name for name in rows if name.startswith("brain_")), "brain")
    few, many = details["trials"]["brain"]
    lines = []
    for name, row in rows.items():
        label = SHOWN.get(name, f"from the brain, means over {name.removeprefix('brain_')} trials as in validation")
        if name == "brain" and many > 1:
            label += f", means over {few if few == many else f'{few} to {many}'} trials"
        figures = row["figures"]
        lines.append(
            {
                "label": label,
                "coverage": _share(figures["coverage"]),
                "size": f"{figures['set_size']['value']:.1f}",
                "size_ci": "{:.1f} to {:.1f}".format(*figures["set_size"]["ci95"]),
                "ece": f"{figures['ece']['value']:.3f}",
                "ece_ci": "{:.3f} to {:.3f}".format(*figures["ece"]["ci95"]),
                "nothing": "" if name == "permuted" else f"{row['says_nothing']:.1%}",
                "kind": "brain" if name == "brain" else "row",
            }
        )
    points = [
        {
            "x": round(100 * part["probability"], 1),
            "y": round(100 - 100 * part["right"], 1),
            "low": round(100 - 100 * part["ci95"][0], 1),
            "high": round(100 - 100 * part["ci95"][1], 1),
            "text": f"{part['probability']:.0%} probable, {part['right']:.0%} right, of {part['n']}",
        }
        for part in rows[matched]["reliability"]
    ]
    return {
        "lines": lines,
        "points": points,
        "of": next(line["label"] for line, name in zip(lines, rows, strict=True) if name == matched),
        "level": f"{details['level']:.0%}",
        "gallery": details["gallery"],
    }


def _share(entry: dict[str, Any]) -> dict[str, str]:
    low, high = entry["ci95"]
    return {"text": f"{entry['value']:.1%}", "ci": f"{low:.1%} to {high:.1%}"}
