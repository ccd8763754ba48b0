//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/btw-img/btw-img/publish"
)

// served starts "vmctl serve" in dir and returns where it listens.
func served(t *testing.T, dir string, args ...string) (host string) {
	t.Helper()
	cmd := command(dir, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("vmctl serve ends with %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "http://"), "/")
}

// browser is a Chromium without a window.
func browser(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("/usr/bin/chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-quic", true), chromedp.UserDataDir(t.TempDir()))
	allocator, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(cancel)
	ctx, closeBrowser := chromedp.NewContext(allocator)
	t.Cleanup(closeBrowser)
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestServeOffersBuildsToClientsAndBrowsers serves the folder that a build left.
func TestServeOffersBuildsToClientsAndBrowsers(t *testing.T) {
	t.Parallel()
	b := debian(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "images"), 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, "cp", "-r", "--sparse=always", b.folder, filepath.Join(dir, "images/debian"))
	host := served(t, dir)
	r := registry{host: host, client: http.DefaultClient}

	got := strings.TrimSpace(r.good(t, "pull", host+"/debian:13", "-o", t.TempDir()).stdout)
	tool(t, "cmp", b.image("qcow2"), got)
	r.good(t, "verify", host+"/debian")
	for client, fetch := range map[string]func(*testing.T, string) string{"oras": r.pullWithOras, "skopeo": r.pullWithSkopeo, "curl": r.pullWithCurl} {
		t.Run("pull with "+client, func(t *testing.T) { tool(t, "cmp", b.image("qcow2"), fetch(t, "debian")) })
	}
	if res := r.with(t, "", "push", b.folder, host+"/other"); res.code != 6 {
		t.Errorf("a push to what is served: exit code %d\n%s", res.code, res.stderr)
	}

	ctx := browser(t)
	var card, booted, pasted, button, packages, console string
	var rows, hidden int
	err := chromedp.Run(ctx,
		cdpbrowser.GrantPermissions([]cdpbrowser.PermissionType{cdpbrowser.PermissionTypeClipboardReadWrite, cdpbrowser.PermissionTypeClipboardSanitizedWrite}),
		chromedp.Navigate("http://"+host+"/"),
		chromedp.Text("#debian", &card, chromedp.ByQuery),
		chromedp.Evaluate(`[...document.querySelectorAll("#debian .boot.passed")].map(e => e.textContent).join(" ")`, &booted),
		chromedp.Click("#debian .command:nth-child(2) button", chromedp.ByQuery),
		chromedp.Poll(`document.querySelector("#debian .command:nth-child(2) button").textContent !== "Copy"`, nil),
		chromedp.Text("#debian .command:nth-child(2) button", &button, chromedp.ByQuery),
		chromedp.Evaluate(`navigator.clipboard.readText()`, &pasted, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }),
		chromedp.Click("#debian h2 a", chromedp.ByQuery),
		chromedp.WaitVisible("#filter", chromedp.ByQuery),
		chromedp.Evaluate(`document.querySelectorAll(".packages tbody tr").length`, &rows),
		chromedp.SendKeys("#filter", "openssh", chromedp.ByQuery),
		chromedp.Text("#count", &packages, chromedp.ByQuery),
		chromedp.Evaluate(`document.querySelectorAll(".packages tbody tr[hidden]").length`, &hidden),
		chromedp.Click("details.console:last-of-type summary", chromedp.ByQuery),
		chromedp.WaitVisible("details.console:last-of-type pre", chromedp.ByQuery),
		chromedp.Text("details.console:last-of-type pre", &console, chromedp.ByQuery),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Minimal Debian 13", "qcow2", "packages"} {
		if !strings.Contains(card, want) {
			t.Errorf("the card lacks %q:\n%s", want, card)
		}
	}
	if booted != "bios uefi secureboot" {
		t.Errorf("shown as booted: %s", booted)
	}
	if button != "Copied" || pasted != "oras pull --plain-http "+host+"/debian:latest" {
		t.Errorf("the button says %q, what it copied is %q", button, pasted)
	}
	shown, err := strconv.Atoi(packages)
	if err != nil || shown == 0 || shown > 10 || shown+hidden != rows || rows < 100 {
		t.Errorf("%q of %d packages are shown, %d are hidden", packages, rows, hidden)
	}
	if !strings.Contains(console, "Linux version") {
		t.Errorf("the console shows %d characters", len(console))
	}

	// A build that is new is offered without a restart.
	manifest := filepath.Join(dir, "images/debian/build.json")
	content, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	write(t, manifest+".new", strings.Replace(string(content), b.manifest.ID, "00000000-0000-4000-8000-000000000000", 1))
	if err := os.Rename(manifest+".new", manifest); err != nil {
		t.Fatal(err)
	}
	tool(t, "sh", "-c", "cd "+filepath.Dir(manifest)+" && sha256sum debian-13-amd64.* *.json *.html boot-*.log > SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS")
	var in publish.Inspection
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && !strings.HasSuffix(in.Release, ".2"); time.Sleep(time.Second) {
		in = inspection(t, r, host+"/debian:latest")
	}
	if !strings.HasSuffix(in.Release, ".2") || !strings.HasPrefix(in.Config.Build, "00000000") {
		t.Errorf("the new build is not offered: %s of %s", in.Release, in.Config.Build)
	}
}

func inspection(t *testing.T, r registry, ref string) (in publish.Inspection) {
	t.Helper()
	r.good(t, "inspect", ref, "--json").read(t, &in)
	return in
}
