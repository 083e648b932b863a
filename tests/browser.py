"""A headless Chromium, driven by its command line alone: screenshots, and what a page says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
BASE = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--virtual-time-budget=20000",
)
DESKTOP, PHONE = (1200, 1600), (500, 1600)
"""Widths and heights; headless Chromium opens no window narrower than 500."""


def chromium(page, *flags, profile, dark=False, size=DESKTOP):
    """Run Chromium on a file; gives what it printed."""
    shade = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if dark else ()
    done = subprocess.run(
        [
            CHROMIUM,
            *BASE,
            *shade,
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            *flags,
            Path(page).resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return done.stdout


def screenshot(page, image, *, profile, dark=False, size=DESKTOP):
    """Write what a page looks like to `image`."""
    chromium(page, f"--screenshot={Path(image).resolve()}", profile=profile, dark=dark, size=size)


def asked(page, script, *, folder, dark=False, size=DESKTOP):
    """What an asynchronous script, the body of a function, returns on a page, from JSON.

    The page's policy lets no network be reached, and still holds for the copy that is asked.
    """
    wrapped = (
        f"<script>window.addEventListener('load', async () => {{ let said; try {{ said = await "
        f"(async () => {{ {script} }})(); }} catch (error) {{ said = String(error); }} "
        "const kept = document.createElement('pre'); kept.id = 'asked'; "
        "kept.textContent = JSON.stringify(said); document.body.append(kept); });</script>"
    )
    copy = Path(folder) / "asked.html"
    text = Path(page).read_text(encoding="utf-8")
    copy.write_text(
        text.replace("</body>\n</html>", f"{wrapped}</body>\n</html>"), encoding="utf-8"
    )
    shown = chromium(copy, "--dump-dom", profile=Path(folder) / "profile", dark=dark, size=size)
    said = re.search(r'<pre id="asked">(.*?)</pre>', shown, re.DOTALL)[1]
    for name, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        said = said.replace(name, sign)
    return json.loads(said)
