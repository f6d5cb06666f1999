"""Write docs/leaderboard.md from the submissions beside it: python docs/make_leaderboard.py

A file that claims more than it holds stops the script (`mathsft.sharing.leaderboard`).
"""

from pathlib import Path

from mathsft.sharing.leaderboard import leaderboard_page

PAGE = Path(__file__).with_name("leaderboard.md")
FOLDER = PAGE.with_suffix("")
BASE = "lesson 03's mixture"


def page() -> str:
    """The text of the page."""
    return leaderboard_page(sorted(FOLDER.glob("*.json")), base=BASE)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
