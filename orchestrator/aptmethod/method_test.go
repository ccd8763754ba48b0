package aptmethod

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// archive serves files by their paths, and counts.
type archive struct {
	*httptest.Server
	files map[string]string
	asked int
}

func newArchive(t *testing.T, files map[string]string) *archive {
	t.Helper()
	a := &archive{files: files}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked++
		content, ok := a.files[r.URL.Path]
		if to, led := strings.CutPrefix(content, "-> "); led {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, content)
	}))
	t.Cleanup(a.Close)
	return a
}

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// folderOf is a method's folder.
func folderOf(t *testing.T, s Settings) string {
	t.Helper()
	folder := t.TempDir()
	if err := Prepare(folder, folder, s); err != nil {
		t.Fatal(err)
	}
	return folder
}

// later is the same folder in a later build: what came is there.
func later(t *testing.T, folder string, s Settings) string {
	t.Helper()
	next := folderOf(t, s)
	came, err := os.ReadDir(NewFolder(folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range came {
		if _, _, ok := SplitKept(entry.Name()); !ok {
			continue
		}
		if err := os.Rename(filepath.Join(NewFolder(folder), entry.Name()), filepath.Join(KeptFolder(next), entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return next
}

// recorded is apt's side of a method, which must have recorded each file that it says is
// there: apt ends a method as soon as it has all.
type recorded struct {
	t      *testing.T
	folder string
	io.Writer
}

func (r recorded) Write(p []byte) (int, error) {
	answer, err := readMessage(bufio.NewReader(bytes.NewReader(p)))
	if err == nil && answer.is(uriDone) {
		if record, err := ReadRecord(NewFolder(r.folder)); err != nil || len(record) == 0 || record[len(record)-1].SHA256 != answer.get("SHA256-Hash") {
			r.t.Errorf("not recorded before it is there: %v, %v", record, err)
		}
	}
	return r.Writer.Write(p)
}

// get asks a method for one file as apt does, and returns its last answer.
func get(t *testing.T, folder string, fields ...field) message {
	t.Helper()
	in, ask := io.Pipe()
	answers, out := io.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- errors.Join(Serve(t.Context(), folder, "http", in, recorded{t, folder, out}), out.Close())
	}()
	reader := bufio.NewReader(answers)
	capabilities, err := readMessage(reader)
	if err != nil || capabilities.get("Send-Config") != "true" || capabilities.get("Send-URI-Encoded") != "true" {
		t.Fatalf("%v %v", capabilities, err)
	}
	request := message{acquire, fields}.with("Filename", filepath.Join(t.TempDir(), "partial_"+filepath.Base(fields[0].value)))
	settings := message{configuration, []field{{"Config-Item", "APT::Architecture=amd64"}, {"Config-Item", "Acquire::Send-URI-Encoded=1"}}}
	go func() { _, _ = io.WriteString(ask, settings.String()+request.String()) }()
	var last message
	for {
		answer, err := readMessage(reader)
		if err != nil {
			t.Fatalf("%v after %v", err, last)
		}
		if last = answer; answer.is(uriDone) || answer.is(uriFailure) || answer.is(redirect) {
			break
		}
	}
	if err := errors.Join(ask.Close(), <-served); err != nil {
		t.Error(err)
	}
	if last.get("URI") != fields[0].value {
		t.Errorf("the answer speaks of %s", last.get("URI"))
	}
	return last
}

func (m message) content(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(m.get("Filename"))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// packageAt is the request for a package of an archive.
func packageAt(base, content string) []field {
	return []field{{"URI", base + "/pool/a/a_1%3a2-3+b1_amd64.deb"}, {"Target-Repo-URI", base + "/"}, {"Target-Type", "deb"}, {"Expected-SHA256", digest(content)}}
}

func listAt(base string) []field {
	return []field{{"URI", base + "/dists/trixie/InRelease"}, {"Target-Repo-URI", base + "/"}, {"Target-Type", "index"}, {"Index-File", "true"}}
}

const (
	aPackage = "a package"
	packages = "/pool/a/a_1:2-3+b1_amd64.deb"
	release  = "/dists/trixie/InRelease"
)

func TestAPackageIsFetchedOnce(t *testing.T) {
	a := newArchive(t, map[string]string{packages: aPackage})
	folder := folderOf(t, Settings{})
	for round, from := range []string{FromArchive, FromCache, FromCache} {
		answer := get(t, folder, packageAt(a.URL, aPackage)...)
		if !answer.is(uriDone) || answer.content(t) != aPackage || answer.get("SHA256-Hash") != digest(aPackage) {
			t.Fatalf("round %d: %v", round, answer)
		}
		record, err := ReadRecord(NewFolder(folder))
		want := Fetched{Name: "partial_a_1%3a2-3+b1_amd64.deb", URI: a.URL + "/pool/a/a_1%3a2-3+b1_amd64.deb", Base: a.URL + "/", SHA256: digest(aPackage), Size: int64(len(aPackage)), From: from}
		if err != nil || len(record) != 1 || record[0] != want || !want.IsPackage() {
			t.Errorf("round %d: %+v, %v", round, record, err)
		}
		if round == 0 {
			folder = later(t, folder, Settings{Offline: true})
		} else {
			_ = os.Remove(filepath.Join(NewFolder(folder), RecordName))
		}
	}
	if a.asked != 1 {
		t.Errorf("the archive was asked %d times", a.asked)
	}
}

func TestADamagedPackageIsAMiss(t *testing.T) {
	a := newArchive(t, map[string]string{packages: aPackage})
	for name, damage := range map[string]string{"other": "b package", "short": "a pack", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			for _, offline := range []bool{false, true} {
				folder := folderOf(t, Settings{Offline: offline})
				if err := os.WriteFile(filepath.Join(KeptFolder(folder), KeptName(digest(aPackage), "a.deb")), []byte(damage), 0o644); err != nil {
					t.Fatal(err)
				}
				answer := get(t, folder, packageAt(a.URL, aPackage)...)
				if offline != answer.is(uriFailure) || !offline && answer.content(t) != aPackage {
					t.Errorf("offline %t: %v", offline, answer)
				}
			}
		})
	}
}

// lender gives the content at a socket to whoever says its digest, and of another digest what
// it is told to.
func lender(t *testing.T, content, otherwise string) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			if line, _ := bufio.NewReader(client).ReadString('\n'); line == digest(content)+"\n" {
				_, _ = io.WriteString(client, content)
			} else {
				_, _ = io.WriteString(client, otherwise)
			}
			client.Close()
		}
	}()
	return socket
}

func TestWhatAnotherMachineKeepsIsAskedFor(t *testing.T) {
	a := newArchive(t, map[string]string{packages: aPackage})
	folder := folderOf(t, Settings{Offline: true, Socket: lender(t, aPackage, "")})
	if answer := get(t, folder, packageAt(a.URL, aPackage)...); !answer.is(uriDone) || answer.content(t) != aPackage || a.asked > 0 {
		t.Errorf("%v, the archive was asked %d times", answer, a.asked)
	}
	if record, err := ReadRecord(NewFolder(folder)); err != nil || len(record) != 1 || record[0].From != FromCache {
		t.Errorf("%+v, %v", record, err)
	}
	for name, socket := range map[string]string{"nothing": lender(t, "b", ""), "cut": lender(t, "b", aPackage[:3]), "nobody": "/nonexistent"} {
		folder := folderOf(t, Settings{Socket: socket})
		if answer := get(t, folder, packageAt(a.URL, aPackage)...); !answer.is(uriDone) || answer.content(t) != aPackage {
			t.Errorf("%s: %v", name, answer)
		}
		if record, err := ReadRecord(NewFolder(folder)); err != nil || len(record) != 1 || record[0].From != FromArchive {
			t.Errorf("%s: %+v, %v", name, record, err)
		}
	}
}

func TestWithoutNetworkWhatIsMissingIsRecorded(t *testing.T) {
	folder := folderOf(t, Settings{Offline: true})
	answer := get(t, folder, packageAt("http://user:secret@mirror.example", aPackage)...)
	record, err := ReadRecord(NewFolder(folder))
	if err != nil || !answer.is(uriFailure) || len(record) != 1 || record[0].From != Missing || record[0].Base != "http://mirror.example/" {
		t.Errorf("%v, %+v, %v", answer, record, err)
	}
}

func TestListsAreThoseThatTheCallerNames(t *testing.T) {
	const old, now = "list of yesterday", "list of today"
	name := "partial_InRelease" // as get calls it
	a, mirror := newArchive(t, map[string]string{release: now}), newArchive(t, map[string]string{release: old})
	folder := folderOf(t, Settings{})
	if answer := get(t, folder, listAt(a.URL)...); answer.content(t) != now {
		t.Errorf("%v", answer)
	}
	if record, err := ReadRecord(NewFolder(folder)); err != nil || len(record) != 1 || !record[0].List || record[0].Name != name || record[0].SHA256 != digest(now) {
		t.Errorf("%+v, %v", record, err)
	}
	offline := later(t, folder, Settings{Offline: true, Lists: map[string]string{name: digest(now)}})
	if answer := get(t, offline, listAt(a.URL)...); !answer.is(uriDone) || answer.content(t) != now {
		t.Errorf("%v", answer)
	}
	if answer := get(t, folderOf(t, Settings{Offline: true}), listAt(a.URL)...); !answer.is(uriFailure) {
		t.Errorf("%v", answer)
	}
	pinned := Settings{Pinned: true, Lists: map[string]string{name: digest(old)}}
	if answer := get(t, folderOf(t, pinned), listAt(a.URL)...); !answer.is(uriFailure) || !strings.Contains(answer.get("Message"), digest(now)) {
		t.Errorf("another state of the archive passed: %v", answer)
	}
	pinned.Mirrors = []string{a.URL, mirror.URL + "/"}
	if answer := get(t, folderOf(t, pinned), listAt(a.URL)...); !answer.is(uriDone) || answer.content(t) != old {
		t.Errorf("%v", answer)
	}
}

func TestMirrorsAreAskedForWhatTheArchiveLacks(t *testing.T) {
	a := newArchive(t, map[string]string{})
	wrong := newArchive(t, map[string]string{packages: "another package"})
	right := newArchive(t, map[string]string{packages: "-> /moved", "/moved": aPackage})
	circle := newArchive(t, map[string]string{packages: "-> " + packages})
	folder := folderOf(t, Settings{Mirrors: []string{wrong.URL, circle.URL, right.URL}})
	if answer := get(t, folder, packageAt(a.URL, aPackage)...); !answer.is(uriDone) || answer.content(t) != aPackage {
		t.Errorf("%v", answer)
	}
	record, err := ReadRecord(NewFolder(folder))
	if err != nil || len(record) != 1 || record[0].From != FromArchive || !strings.HasPrefix(record[0].URI, a.URL) {
		t.Errorf("%+v, %v", record, err)
	}
	none := folderOf(t, Settings{Mirrors: []string{wrong.URL}})
	if answer := get(t, none, packageAt(a.URL, aPackage)...); !answer.is(uriFailure) {
		t.Errorf("%v", answer)
	}
	if record, err := ReadRecord(NewFolder(none)); err != nil || len(record) != 1 || record[0].From != Missing {
		t.Errorf("%+v, %v", record, err)
	}
}

// A program of the tree may write what it likes.
func TestARecordOfAnybodys(t *testing.T) {
	folder := t.TempDir()
	sum := digest("")
	lines := []string{
		`{"name":"../../etc/passwd","sha256":"` + sum + `","from":"archive"}`,
		`{"name":"a.deb","sha256":"../` + sum[3:] + `","from":"archive"}`,
		`{"name":"-rf","sha256":"` + sum + `","from":"archive"}`,
		`{"name":"a\u0000b","sha256":"` + sum + `","from":"archive"}`,
		`{"name":"` + strings.Repeat("a", 300) + `","sha256":"` + sum + `","from":"archive"}`,
		`{"name":"a.deb","sha256":"` + sum + `","size":-1,"from":"archive"}`,
		`{"name":"a.deb","from":"cache"}`,
		`not JSON`, ``,
		`{"name":"good.deb","sha256":"` + sum + `","from":"archive"}`,
	}
	if err := os.WriteFile(filepath.Join(folder, RecordName), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	record, err := ReadRecord(folder)
	if err != nil || len(record) != 1 || record[0].Name != "good.deb" {
		t.Errorf("%+v, %v", record, err)
	}
	if err := errors.Join(os.Remove(filepath.Join(folder, RecordName)), os.Symlink("/etc/passwd", filepath.Join(folder, RecordName))); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRecord(folder); err == nil {
		t.Error("a link was followed")
	}
}

func TestMessages(t *testing.T) {
	const text = "600 URI Acquire\nURI: http://a/b\nFilename:x\nFail-Ignore: true\n\n"
	r := bufio.NewReader(strings.NewReader("\n" + text + "601 Configuration\n\n600 cut"))
	m, err := readMessage(r)
	if err != nil || !m.is(acquire) || m.get("uri") != "http://a/b" || m.get("Filename") != "x" || m.get("Missing") != "" {
		t.Errorf("%+v, %v", m, err)
	}
	changed := m.with("URI", "c").with("New", "d").without("Fail-Ignore")
	if got := changed.String(); got != "600 URI Acquire\nURI: c\nFilename: x\nNew: d\n\n" || m.get("URI") != "http://a/b" {
		t.Errorf("%q", got)
	}
	if m, err := readMessage(r); err != nil || !m.is(configuration) {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := readMessage(r); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	large := bufio.NewReader(strings.NewReader("600 x\n" + strings.Repeat("A: b\n", largestMessage)))
	if _, err := readMessage(large); !errors.Is(err, errLarge) {
		t.Errorf("%v", err)
	}
}

func TestConfigurationOfApt(t *testing.T) {
	config := Config("/run/vmctl/apt", Settings{})
	for _, line := range []string{`Dir::Bin::Methods::http "/run/vmctl/apt/http";`, `Dir::Bin::Methods::https "/run/vmctl/apt/https";`} {
		if !slices.Contains(strings.Split(config, "\n"), line) {
			t.Errorf("%s is missing in\n%s", line, config)
		}
	}
	if strings.Contains(config, "Valid-Until") || !strings.Contains(Config("/x", Settings{Offline: true}), "Valid-Until") {
		t.Error("lists of another day are for builds without network alone")
	}
}

func TestNamesOfKeptFiles(t *testing.T) {
	sum := digest("x")
	if got, name, ok := SplitKept(KeptName(sum, "a_1_amd64.deb")); !ok || got != sum || name != "a_1_amd64.deb" {
		t.Error(got, name, ok)
	}
	for _, wrong := range []string{"", "lock", sum, sum + "-", sum + "_a", strings.ToUpper(sum) + "-a", sum + "-.part", sum + "-a b"} {
		if _, _, ok := SplitKept(wrong); ok {
			t.Errorf("%q passes", wrong)
		}
	}
}
