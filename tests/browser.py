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
    """Run Chromium on a file, or on an address; gives what it printed."""
    address = page if "://" in str(page) else Path(page).resolve().as_uri()
    shade = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if dark else ()
    done = subprocess.run(
        [
            CHROMIUM,
            *BASE,
            *shade,
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            *flags,
            address,
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


def asked(page, script, *, folder, dark=False, size=DESKTOP, served=None):
    """What an asynchronous script, the body of a function, returns on a page, from JSON.

    The page's policy lets no network be reached, and still holds for the copy that is asked. The
    copy lies in `folder`; beside the page itself, and under the address `served`, where the page
    needs what lies around it.
    """
    wrapped = (
        f"<script>window.addEventListener('load', async () => {{ let said; try {{ said = await "
        f"(async () => {{ {script} }})(); }} catch (error) {{ said = String(error); }} "
        "const kept = document.createElement('pre'); kept.id = 'asked'; "
        "kept.textContent = JSON.stringify(said); document.body.append(kept); });</script>"
    )
    copy = (Path(page).parent if served else Path(folder)) / "asked.html"
    text = Path(page).read_text(encoding="utf-8")
    body, ends = re.split(r"(?=</body>\s*</html>\s*$)", text)
    copy.write_text(f"{body}{wrapped}{ends}", encoding="utf-8")
    address = f"{served}/{copy.name}" if served else copy
    shown = chromium(address, "--dump-dom", profile=Path(folder) / "profile", dark=dark, size=size)
    said = re.search(r'<pre id="asked">(.*?)</pre>', shown, re.DOTALL)[1]
    for name, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        said = said.replace(name, sign)
    return json.loads(said)
