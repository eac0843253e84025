#!/usr/bin/env bash
# Finds a Chromium for the tests that look at pages, or installs one: by playwright, or as root by Debian's packages.
# Prints its path. Where there is none to be had it says so in one line on stderr, and the exit status is 1.
#
#   scripts/browser.sh VENV          e.g. scripts/browser.sh .venv
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

venv=$1

find_browser() {
    local name
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" && return
    done
    "$venv/bin/python" -c '
import os
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    path = playwright.chromium.executable_path
raise SystemExit(print(path) if os.path.exists(path) else 1)' 2>/dev/null
}

find_browser && exit
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1
fi
find_browser && exit
"$venv/bin/playwright" install chromium >/dev/null 2>&1
find_browser && exit
echo "halonet: no Chromium was found or could be installed: the tests that look at pages are skipped" >&2
exit 1
