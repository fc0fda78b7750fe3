"""The report in a real browser: it loads cleanly, sorts, and fits a phone."""

import shutil
import tempfile

import pytest
from report_results import PHANTOM, write_results

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium with chromedriver on the path")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        yield driver
        driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("browser") / "results").as_uri()


@pytest.fixture
def page(browser, address):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get(address)
    return browser


def test_no_errors_and_all_images_load(page):
    # Images below the fold load once they come near.
    page.execute_script("document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; })")
    widths = page.execute_async_script(
        "const done = arguments[0], all = [...document.images];"
        "Promise.all(all.map(i => i.decode())).then(() => done(all.map(i => i.naturalWidth)))"
    )
    assert len(widths) == 5
    assert min(widths) > 300
    assert page.get_log("browser") == []


COLUMN = """
const table = document.querySelector(arguments[0]), index = arguments[1];
return [...table.tBodies].map(body => [...body.rows].filter(row => !row.classList.contains("group"))
  .map(row => row.cells[index].dataset.value ?? null));
"""


def click(page, selector, index):
    script = "const t = document.querySelector(arguments[0]); t.tHead.rows[t.tHead.rows.length - 1]"
    page.execute_script(f"{script}.cells[arguments[1]].querySelector('button').click()", selector, index)
    return [[None if v is None else float(v) for v in body] for body in page.execute_script(COLUMN, selector, index)]


def test_a_click_sorts_and_another_turns_it_round(page):
    selector = f"#comparison-{PHANTOM} table"
    (up,) = click(page, selector, 1)
    present = [value for value in up if value is not None]
    assert len(present) == 2
    assert up == [*sorted(present), None]  # the failed method stays last
    (down,) = click(page, selector, 1)
    assert down == [*sorted(present, reverse=True), None]
    assert page.execute_script(f"return document.querySelectorAll('{selector} [aria-sort]').length") == 1
    names = page.execute_script(f"return [...document.querySelectorAll('{selector} tbody th')].map(t => t.innerText)")
    assert names[-1] == "syn-cao"


def test_rows_stay_within_their_groups(page):
    selector = "#cao2018-table-1 table"
    before = [len(body) for body in page.execute_script(COLUMN, selector, 1)]
    for body in click(page, selector, 1):
        present = [value for value in body if value is not None]
        assert present == sorted(present)
    assert [len(body) for body in page.execute_script(COLUMN, selector, 1)] == before


def test_fits_a_phone(page, address):
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.get(address)
    width, wide_tables = page.execute_script(
        "return [document.documentElement.scrollWidth,"
        "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth).length]"
    )
    assert width <= 390
    assert wide_tables > 3  # they scroll by themselves
    assert page.execute_script("return document.querySelector('nav details').open") is False
    # The first column stays in sight.
    left = page.execute_script(
        f"const s = document.querySelector('#comparison-{PHANTOM} .scroll'); s.scrollLeft = 200;"
        "return s.querySelector('tbody th').getBoundingClientRect().left - s.getBoundingClientRect().left"
    )
    assert left == pytest.approx(0, abs=1)


def test_print_leaves_out_navigation(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert page.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.execute_script("return getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"


def test_dark_mode_turns_the_page_dark(page):
    colour = "return getComputedStyle(document.body).backgroundColor"
    features = [{"name": "prefers-color-scheme", "value": "light"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    assert page.execute_script(colour) == "rgb(255, 255, 255)"
    features[0]["value"] = "dark"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    assert page.execute_script(colour) == "rgb(20, 24, 28)"
