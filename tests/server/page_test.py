#!/usr/bin/env python3
"""The server's page in headless Chromium, driven through python3-selenium as somebody at a screen would."""
import base64
import json
import os
import pathlib
import shutil
import tempfile
import unittest

from files_test import IMAGE
from serving import CLEAN, LONG, VIDEOS, Server, until

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
except ImportError:
    webdriver = None

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
MISSING = [name for name, there in (("python3-selenium", webdriver), ("chromium", CHROMIUM), ("chromium-driver", DRIVER)) if not there]
VIDEO = VIDEOS / "short-03.mp4"
MARKUP = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>"


class Browser:
    """One window. Files of its own lie in a folder that goes with it."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1000",
                     "--user-data-dir=" + self.folder.name + "/profile"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = Service(DRIVER, env={**os.environ, "HOME": self.folder.name})
        self.driver = webdriver.Chrome(service=service, options=options)
        self.driver.set_script_timeout(30)

    def close(self):
        self.driver.quit()
        self.folder.cleanup()

    def open(self, server):
        self.driver.get(f"http://{server.host}:{server.port}/")

    def ready(self):
        return self.script("return document.documentElement.dataset.ready === '1'")

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        """textContent of the last such element; None without one."""
        return self.script("const all = document.querySelectorAll(arguments[0]); return all.length ? all[all.length - 1].textContent : null", selector)

    def shown(self, selector):
        return any(one.is_displayed() for one in self.driver.find_elements(By.CSS_SELECTOR, selector))

    def script(self, text, *arguments):
        return self.driver.execute_script(text, *arguments)

    def upload(self, path):
        self.find("#file").send_keys(str(path))

    def ask(self, question):
        """Asks and waits for the end of the answer: its article's texts by their class."""
        before = len(self.driver.find_elements(By.TAG_NAME, "article"))
        self.script("document.getElementById('question').value = arguments[0]", question)
        self.find("#question").send_keys(Keys.ENTER)
        if not until(lambda: len(self.driver.find_elements(By.TAG_NAME, "article")) == before + 1 and self.find("#send").is_enabled(), 60):
            raise AssertionError("no answer: " + self.text("main"))
        return {name: self.text(f"article:last-child .{name}") for name in ("answer", "cached", "tokens", "bytes", "time", "problem")}

    def set(self, selector, value):
        """A value that is not typed: of a slider or a menu."""
        self.script("const one = document.querySelector(arguments[0]); one.value = arguments[1];"
                    "one.dispatchEvent(new Event('input')); one.dispatchEvent(new Event('change'))", selector, str(value))

    def requested(self):
        """The addresses of all that the page has asked for since it was asked last."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                found.append(message["params"]["url"])
        return found

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def width(self, pixels):
        if pixels:
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": pixels, "height": 844, "deviceScaleFactor": 1, "mobile": True})
        else:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def has(bits, i):
    return bits[i >> 3] >> (i & 7) & 1


@unittest.skipIf(MISSING, "not installed: " + ", ".join(MISSING) + "; the page was NOT looked at in a browser")
class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.browser = Browser()

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.server.stop()

    def setUp(self):
        for kind in ("purekv/prefixes", "files"):
            for one in self.server.get("/v1/" + kind).json["data"]:
                self.server.request("DELETE", f"/v1/{kind}/{one['id']}")
        self.browser.open(self.server)
        self.script("sessionStorage.clear()")
        self.browser.open(self.server)
        self.assertTrue(until(self.browser.ready))
        self.browser.requested()
        self.browser.complaints()

    def script(self, *arguments):
        return self.browser.script(*arguments)

    def upload(self, path=VIDEO):
        self.browser.upload(path)
        self.assertTrue(until(lambda: self.browser.shown("#uploaded")), self.browser.text("#drop"))

    def test_two_questions_the_second_without_a_prefill(self):
        page = self.browser
        self.upload()
        self.assertEqual(page.text("#file-name"), VIDEO.name)
        first = page.ask("Describe the video.")
        self.assertIn("purple square", first["answer"])
        self.assertRegex(first["cached"], r"^(\d+) of \1 tokens$")
        self.assertRegex(first["tokens"], r"^[\d.]+ of \d+ tokens \([\d.]+ %\)")
        self.assertIn("KiB of", first["bytes"])
        second = page.ask("What moves?")
        self.assertIsNone(second["problem"])
        self.assertTrue(second["answer"])
        # What the page says is what the server says of the same request.
        file = self.server.get("/v1/files").json["data"][0]["id"]
        usage = self.server.chat([{"role": "user", "content": [{"type": "file", "file": {"file_id": file}}, {"type": "text", "text": "What moves?"}]}],
                                 max_tokens=256, purekv={"policy": "purekv", "budget": 0.2}).json["usage"]
        cached, prompt = usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]
        self.assertGreater(cached, prompt // 2)
        self.assertEqual(second["cached"], f"{prompt - cached} of {prompt} tokens; {cached} were cached")
        # Another budget is another cache; a reload keeps the file.
        page.set("#budget", 50)
        self.assertEqual(page.text("#budget-value"), "50 %")
        self.assertNotIn("cached", page.ask("What moves?")["cached"])
        page.open(self.server)
        self.assertTrue(until(lambda: page.ready() and page.shown("#uploaded")))
        self.assertIn("were cached", page.ask("What moves?")["cached"])
        # With what was said before.
        page.find("#follow").click()
        later = page.ask("Describe the video.")
        self.assertIn("were cached", later["cached"])
        self.assertGreater(int(later["cached"].split(" of ")[1].split()[0]), prompt)
        self.assertEqual(page.complaints(), [])
        # Forgotten when it is removed, with what was read.
        held = len(self.server.get("/v1/purekv/prefixes").json["data"])
        page.find("#remove").click()
        self.assertTrue(until(lambda: page.shown("#choose")))
        self.assertTrue(until(lambda: self.server.get("/v1/files").json["data"] == []))
        self.assertTrue(until(lambda: len(self.server.get("/v1/purekv/prefixes").json["data"]) < held))

    def test_the_cost_is_there_before_a_question(self):
        page = self.browser
        self.upload()
        self.assertTrue(until(lambda: page.shown("#cost table")), page.text("#cost"))
        told = page.text("#cost")
        body = {"model": "demo", "purekv": {"policy": "purekv", "budget": 0.2}, "max_tokens": 256, "messages": [{"role": "user", "content": [
            {"type": "file", "file": {"file_id": self.server.get("/v1/files").json["data"][0]["id"]}}, {"type": "text", "text": "?"}]}]}
        cost = self.server.post(body, path="/v1/purekv/cost").json
        self.assertIn(f"{cost['prompt_tokens']} tokens to read, {cost['visual_tokens']} of them seen", told)
        self.assertEqual(len(page.driver.find_elements(By.CSS_SELECTOR, "#cost tbody tr")), len(cost["kept"]))
        page.find("#frames").send_keys("4")
        self.assertTrue(until(lambda: page.text("#cost") != told and "tokens to read" in page.text("#cost")))
        fewer = self.server.post({**body, "mm_processor_kwargs": {"max_frames": 4}}, path="/v1/purekv/cost").json
        self.assertLess(fewer["visual_tokens"], cost["visual_tokens"])
        self.assertIn(f"{fewer['visual_tokens']} of them seen", page.text("#cost"))
        self.assertIn("4 frames", self.browser.ask("What moves?") and page.text("article:last-child dl"))

    def test_dark_cells_are_what_was_not_kept(self):
        page = self.browser
        self.upload()
        page.ask("What moves?")
        self.assertTrue(until(lambda: page.shown("#kept")))
        prefix = self.server.get("/v1/purekv/prefixes").json["data"][0]["id"]
        kept = self.server.get(f"/v1/purekv/prefixes/{prefix}/kept").json
        frames = sum(grid[0] for grid in kept["grids"])
        self.assertEqual(sum(slices * rows * columns for slices, rows, columns in kept["grids"]), kept["visual_tokens"])
        every, size = base64.b64decode(kept["kept"]), (kept["visual_tokens"] + 7) // 8
        self.assertEqual(len(every), size * kept["layers"] * kept["kv_heads"])
        figures = page.driver.find_elements(By.CSS_SELECTOR, "#frames-kept figure")
        self.assertEqual(len(figures), frames)

        def darkness():
            """Of every cell in the order of the visual tokens, as it is drawn: 0 to 255."""
            return self.script("""return [...document.querySelectorAll("#frames-kept canvas")].flatMap((canvas) => {
                const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                return [...data].filter((_, i) => i % 4 === 3);
            })""")

        seen = set()
        for layer in range(kept["layers"]):
            page.set("#layer", layer)
            first = layer * kept["kv_heads"]
            sets = [every[number * size:(number + 1) * size] for number in range(first, first + kept["kv_heads"])]
            for head, bits in enumerate(sets):
                page.set("#head", head)
                expected = [not has(bits, i) for i in range(kept["visual_tokens"])]
                drawn = darkness()
                self.assertEqual([alpha > 0 for alpha in drawn], expected, (layer, head))
                self.assertEqual(len(set(drawn)), len(set(expected)))
                held = sum(has(bits, i) for i in range(kept["visual_tokens"]))
                self.assertTrue(0 < held <= kept["counts"][layer][head])  # which has texts, too
                seen.add(tuple(expected))
            page.set("#head", "mean")
            dropped = [sum(not has(bits, i) for bits in sets) for i in range(kept["visual_tokens"])]
            drawn = darkness()
            for count in set(dropped):  # the more heads have dropped it, the darker
                self.assertEqual(len({alpha for alpha, n in zip(drawn, dropped) if n == count}), 1)
            self.assertEqual(sorted(set(drawn)), [drawn[dropped.index(n)] for n in sorted(set(dropped))])
            self.assertEqual([alpha == 0 for alpha in drawn], [n == 0 for n in dropped])
        self.assertGreater(len(seen), 1)
        # The pictures are those of the endpoint, and the cells lie on all of each.
        for index, figure in enumerate(figures):
            self.script("arguments[0].scrollIntoView()", figure)
            image, canvas = figure.find_element(By.TAG_NAME, "img"), figure.find_element(By.TAG_NAME, "canvas")
            self.assertTrue(until(lambda: self.script("return arguments[0].complete && arguments[0].naturalWidth > 0", image)), index)
            shown = page.driver.execute_async_script("""const done = arguments[1];
                fetch(arguments[0].src).then((r) => r.arrayBuffer()).then((b) => done(btoa(String.fromCharCode(...new Uint8Array(b)))), () => done(""))""", image)
            if shown:  # connect-src keeps the page itself from reading blob: addresses
                self.assertEqual(base64.b64decode(shown), self.server.get(f"/v1/purekv/prefixes/{prefix}/frames/{index}.jpg").body)
            for one, other in zip(*(self.script("const r = arguments[0].getBoundingClientRect(); return [r.x, r.y, r.width, r.height]", part)
                                    for part in (image, canvas))):
                self.assertAlmostEqual(one, other, delta=1)
        self.assertEqual(self.script("return [...document.querySelectorAll('#frames-kept img')].filter((one) => !one.src.startsWith('blob:')).length"), 0)

    def test_stop_cancels(self):
        page = self.browser
        gone = self.server.stderr().count("status=499")
        self.script("document.getElementById('question').value = arguments[0]", LONG)
        self.script("document.getElementById('ask').requestSubmit()")
        self.assertTrue(until(lambda: "Reading" in page.text("#status")), page.text("#status"))
        page.find("#stop").click()
        self.assertTrue(until(lambda: page.text("article:last-child .problem") == "Stopped."))
        self.assertTrue(until(lambda: self.server.stderr().count("status=499") == gone + 1))
        self.assertFalse(page.find("#stop").is_enabled())
        self.assertIsNone(page.ask("Hi")["problem"])

    def test_an_upload_shows_how_far_it_is_and_can_be_cancelled(self):
        page = self.browser
        with tempfile.NamedTemporaryFile(suffix=".mp4") as large:
            large.write(VIDEO.read_bytes() + bytes(8 << 20))
            large.flush()
            network = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 1 << 20}
            page.driver.execute_cdp_cmd("Network.enable", {})
            page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", network)
            try:
                page.upload(large.name)
                self.assertTrue(until(lambda: 0 < float(page.find("#upload-progress").get_property("value")) < 1))
                self.drop(VIDEO.name)
                self.assertTrue(until(lambda: "was not taken" in page.text("#file-problem")))
                page.find("#cancel-upload").click()
                self.assertTrue(until(lambda: page.text("#file-problem") == "The upload was cancelled."))
            finally:
                page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**network, "uploadThroughput": -1})
        self.assertTrue(page.shown("#choose"))
        self.assertEqual(self.server.get("/v1/files").json["data"], [])

    def test_a_file_is_dropped(self):
        page = self.browser
        self.drop(MARKUP + ".mp4")
        self.assertTrue(until(lambda: page.shown("#uploaded")), page.text("#drop"))
        self.assertEqual(page.text("#file-name"), MARKUP + ".mp4")
        self.assertEqual(self.script("return document.title"), "PureKV")

    def drop(self, name):
        self.script("""const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), data = new DataTransfer();
            data.items.add(new File([bytes], arguments[1], {type: "video/mp4"}));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: data}))""",
                    base64.b64encode(VIDEO.read_bytes()).decode(), name)

    def test_an_image_is_asked_about(self):
        page = self.browser
        page.find("#frames").send_keys("2")  # which an image has no use for
        self.upload(IMAGE)
        self.assertFalse(page.find("#frames").is_enabled())
        self.assertIsNone(page.ask("What is this?")["problem"])
        self.assertTrue(until(lambda: page.shown("#kept")))
        self.assertEqual(len(page.driver.find_elements(By.CSS_SELECTOR, "#frames-kept figure")), 1)
        self.assertEqual(page.complaints(), [])

    def test_what_is_no_video_is_said(self):
        page = self.browser
        with tempfile.NamedTemporaryFile(suffix=".mp4") as other:
            other.write(b"no video at all, but long enough to be looked at")
            other.flush()
            page.upload(other.name)
            self.assertTrue(until(lambda: "neither an image" in page.text("#file-problem")), page.text("#drop"))
        self.assertTrue(page.shown("#choose"))

    def test_answers_are_text(self):
        """A model may say anything: it is fed to the page in the server's place."""
        page = self.browser
        events = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in (MARKUP[:7], MARKUP[7:], "\n<b>bold</b> &amp;")]
        self.script("""const events = arguments[0].map((one) => "data: " + JSON.stringify(one) + "\\n\\n").join("") + "data: [DONE]\\n\\n";
            const real = window.fetch;
            window.fetch = (path, options) => path === "/v1/chat/completions" ? Promise.resolve(new Response(events)) : real(path, options)""", events)
        said = page.ask(MARKUP)
        self.assertEqual(said["answer"], MARKUP + "\n<b>bold</b> &amp;")
        self.assertEqual(page.text("article:last-child h3"), MARKUP)
        self.script("""window.fetch = () => Promise.resolve(new Response("data: " + JSON.stringify({error: {message: arguments[0]}}) + "\\n\\n"))""", MARKUP)
        self.assertEqual(page.ask("And?")["problem"], MARKUP)
        self.script("""window.fetch = () => Promise.resolve(new Response(JSON.stringify({error: {message: arguments[0]}}), {status: 400}))""", MARKUP)
        self.assertEqual(page.ask("And?")["problem"], MARKUP)
        self.assertEqual(self.script("return document.querySelectorAll('#log img, #log script, #log b').length"), 0)
        self.assertEqual(self.script("return document.title"), "PureKV")
        # And where markup did get in, the policy of the page would not let it run.
        self.script("const one = document.createElement('div'); one.innerHTML = arguments[0]; document.body.append(one)", MARKUP)
        self.assertTrue(until(lambda: any("Content Security Policy" in one for one in page.complaints())))
        self.assertEqual(self.script("return document.title"), "PureKV")

    def test_a_stream_that_ends_early_is_no_answer(self):
        self.script("window.fetch = () => Promise.resolve(new Response('data: {\"choices\": []}\\n\\n'))")
        self.assertEqual(self.browser.ask("Hi")["problem"], "The answer broke off.")

    def test_390_pixels_are_wide_enough(self):
        page = self.browser
        page.width(390)
        try:
            def overflow():
                return self.script("return document.scrollingElement.scrollWidth - window.innerWidth")
            self.assertEqual(self.script("return window.innerWidth"), 390)
            self.assertLessEqual(overflow(), 0)
            with tempfile.TemporaryDirectory() as folder:
                long_name = pathlib.Path(folder) / ("w" * 120 + ".mp4")
                shutil.copy(VIDEO, long_name)
                self.upload(long_name)
            page.ask("w" * 200)
            self.assertTrue(until(lambda: page.shown("#kept")))
            self.assertLessEqual(overflow(), 0)
            for selector in ("#send", "#stop", "#policy", "#layer", "#remove"):  # nothing is pushed out of sight
                box = self.script("const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.left, r.right, r.width]", selector)
                self.assertTrue(box[0] >= 0 and box[1] <= 390 and box[2] > 20, (selector, box))
        finally:
            page.width(None)

    def test_everything_has_a_name_and_can_be_reached_by_keys(self):
        page = self.browser
        self.upload()
        page.ask("What moves?")
        self.assertTrue(until(lambda: page.shown("#kept")))
        page.driver.execute_cdp_cmd("Accessibility.enable", {})
        tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = ("button", "combobox", "slider", "spinbutton", "textbox", "checkbox", "progressbar", "log", "region", "image", "dialog")
        named = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in tree if not one["ignored"]]
        found = [one for one in named if one[0] in roles]
        self.assertEqual([role for role, name in found if not name.strip()], [])
        self.assertLessEqual({"button", "combobox", "slider", "spinbutton", "textbox", "checkbox", "log", "region"}, {role for role, _ in found})
        self.assertIn("status", [role for role, _ in named])
        reached = set()
        self.script("document.activeElement.blur()")
        for _ in range(40):
            page.driver.switch_to.active_element.send_keys(Keys.TAB)
            reached.add(self.script("return document.activeElement.id"))
        self.assertLessEqual({"remove", "policy", "budget", "frames", "question", "send", "follow", "length", "layer", "head"}, reached)

    def test_no_request_leaves_the_origin(self):
        page = self.browser
        page.open(self.server)
        self.assertTrue(until(page.ready))
        self.upload()
        page.ask("Describe the video.")
        self.assertTrue(until(lambda: page.shown("#kept")))
        self.script("document.getElementById('kept').scrollIntoView()")
        self.assertTrue(until(lambda: self.script("return [...document.querySelectorAll('#frames-kept img')].some((one) => one.naturalWidth > 0)")))
        origin = f"http://{self.server.host}:{self.server.port}/"
        asked = page.requested()
        for path in ("", "page.js", "page.css", "v1/files", "v1/chat/completions"):
            self.assertIn(origin + path, asked)
        self.assertEqual([url for url in asked if not url.startswith((origin, "blob:" + origin))], [])
        self.assertEqual(page.complaints(), [])  # of what its policy has kept back, for one
        # The browser would refuse.
        self.assertEqual(page.driver.execute_async_script(
            "fetch('https://elsewhere.example/').then(() => arguments[0]('went'), () => arguments[0]('refused'))"), "refused")
        self.assertTrue(any("Content Security Policy" in one for one in page.complaints()))


@unittest.skipIf(MISSING, "not installed: " + ", ".join(MISSING) + "; the page was NOT looked at in a browser")
class Keyed(unittest.TestCase):
    def test_a_wrong_key_and_then_the_right_one(self):
        browser = Browser()
        try:
            with Server("--api-key", "right key") as server:
                browser.open(server)
                self.assertTrue(until(lambda: browser.shown("#key-dialog")))
                self.assertFalse(browser.shown("#key-problem"))
                browser.find("#key").send_keys("wrong", Keys.ENTER)
                self.assertTrue(until(lambda: browser.shown("#key-problem")))
                self.assertFalse(browser.ready())
                self.assertEqual(browser.script("return sessionStorage.length"), 0)
                browser.find("#key").send_keys("right key", Keys.ENTER)
                self.assertTrue(until(browser.ready))
                self.assertFalse(browser.shown("#key-dialog"))
                self.assertIn("demo", browser.text("#model"))
                self.assertEqual(browser.script("return [localStorage.length, document.cookie]"), [0, ""])
                # Everything behind it, the frames too.
                browser.upload(VIDEO)
                self.assertTrue(until(lambda: browser.shown("#uploaded")), browser.text("#drop"))
                self.assertIn("purple", browser.ask("Describe the video.")["answer"])
                self.assertTrue(until(lambda: browser.shown("#kept")))
                browser.script("document.getElementById('kept').scrollIntoView()")
                self.assertTrue(until(lambda: browser.script("return document.querySelector('#frames-kept img').naturalWidth > 0")))
                self.assertNotIn("right", " ".join(browser.requested()))
                browser.find("#forget-key").click()
                self.assertTrue(until(lambda: browser.shown("#key-dialog")))
                browser.find("#no-key").click()
                self.assertTrue(until(lambda: "without a key" in browser.text("#model")))
        finally:
            browser.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)  # says what is skipped, and why
