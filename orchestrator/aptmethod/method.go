// Package aptmethod is what apt calls to fetch files over the network (a method, in apt's
// words): it gives what it has by its digest, has apt's own method fetch the rest, keeps
// that for later, and records all of it. apt checks each file against the archive's signed
// digests as always. It owns apt's protocol and the record; the folders are the caller's.
package aptmethod

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// Verb is how vmctl is called by apt, with a folder that Prepare has filled and the name
// of apt's own method behind it.
const Verb = "apt-method"

// Settings is what a method is told.
type Settings struct {
	Offline bool `json:"offline,omitempty"` // nothing is fetched
	// Lists is the digests of files that no other file names by digest, by apt's names for
	// them, such as InRelease: what they are where nothing is fetched.
	Lists map[string]string `json:"lists,omitempty"`
	// Pinned says that Lists holds where files are fetched, too.
	Pinned bool `json:"pinned,omitempty"`
	// Mirrors is further addresses of archives, tried in turn for what the archive itself
	// does not have.
	Mirrors []string `json:"mirrors,omitempty"`
	// Socket is where files are asked for that are kept on another machine, "" for none: whoever
	// says a digest and a newline gets the file, or nothing.
	Socket string `json:"socket,omitempty"`
	// Preferences is what apt is to prefer, in its own words (apt_preferences(5)).
	Preferences string `json:"preferences,omitempty"`
}

// The names in the folder of a method.
const (
	settingsName = "settings.json"
	keptFolder   = "kept" // what there is, by KeptName
	newFolder    = "new"  // what is fetched, and the record
)

// MethodsFolder holds apt's own methods, where apt is installed.
const MethodsFolder = "/usr/lib/apt/methods"

// method answers apt.
type method struct {
	Settings
	folder string
	scheme string
	kept   map[string]string // file by digest
	ctx    context.Context

	mu      sync.Mutex
	out     io.Writer
	config  []message          // that every child gets
	known   map[string]*child  // by scheme
	waiting map[string]*asking // by the address that a child was asked for
	workers sync.WaitGroup
}

// asking is a request that a child works on.
type asking struct {
	request message
	want    string   // digest; "" for any
	next    []string // addresses to try after this one
	led     int      // how often it was led elsewhere
}

const mostRedirects = 10

// child is apt's own method.
type child struct {
	mu sync.Mutex
	in io.WriteCloser
}

func (c *child) tell(m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := io.WriteString(c.in, m.String())
	return err
}

// Serve answers apt's requests for files of a scheme until in ends.
func Serve(ctx context.Context, folder, scheme string, in io.Reader, out io.Writer) error {
	m := &method{folder: folder, scheme: scheme, ctx: ctx, out: out, known: map[string]*child{}, waiting: map[string]*asking{}}
	content, err := os.ReadFile(filepath.Join(folder, settingsName))
	if err == nil {
		err = json.Unmarshal(content, &m.Settings)
	}
	if err != nil {
		return fmt.Errorf("settings of the method: %w", err)
	}
	if m.kept, err = list(filepath.Join(folder, keptFolder)); err != nil {
		return err
	}
	if m.Offline {
		m.tell(message{head: "100 Capabilities", fields: []field{{"Version", "1.2"}, {"Send-Config", "true"}, {"Send-URI-Encoded", "true"}, {"Pipeline", "true"}}})
	} else if _, err := m.child(scheme); err != nil {
		return err
	}
	requests := bufio.NewReader(in)
	for {
		request, err := readMessage(requests)
		if err != nil {
			m.close()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := m.answer(request); err != nil {
			m.close()
			return err
		}
	}
}

// list is the files of a folder by their digests.
func list(folder string) (map[string]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	files := map[string]string{}
	for _, entry := range entries {
		if sum, _, ok := SplitKept(entry.Name()); ok {
			files[sum] = filepath.Join(folder, entry.Name())
		}
	}
	return files, nil
}

func (m *method) tell(answer message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = io.WriteString(m.out, answer.String()) // apt is gone where it fails, and ends this
}

// close waits for the children to end.
func (m *method) close() {
	m.mu.Lock()
	for _, c := range m.known {
		c.in.Close()
	}
	m.mu.Unlock()
	m.workers.Wait()
}

// answer deals with one message of apt.
func (m *method) answer(request message) error {
	if !request.is(acquire) {
		return m.configure(request)
	}
	want := m.wanted(request)
	if want != "" && m.give(request, want) {
		return nil
	}
	if m.Offline {
		m.refuse(request, "it is not in vmctl's store, and there is no network")
		return nil
	}
	addresses := m.addresses(request)
	return m.ask(&asking{request: request, want: want, next: addresses[1:]}, addresses[0])
}

// configure passes apt's settings on, to children that are still to come, too.
func (m *method) configure(settings message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.config = append(m.config, settings)
	for _, c := range m.known {
		if err := c.tell(settings); err != nil {
			return err
		}
	}
	return nil
}

// wanted is the digest that a file must have, "" where any will do.
func (m *method) wanted(request message) string {
	if want := request.get("Expected-SHA256"); plainSum.MatchString(want) {
		return want
	}
	if isList(request) && (m.Offline || m.Pinned) {
		return m.Lists[nameOf(request)]
	}
	return ""
}

// addresses is where a file may be, the first one first.
func (m *method) addresses(request message) []string {
	f := Fetched{URI: request.get("URI"), Base: request.get("Target-Repo-URI")}
	return append([]string{f.URI}, f.Elsewhere(m.Mirrors)...)
}

// keptFile is a file that is there.
type keptFile struct {
	io.Reader
	io.Closer
	changed time.Time
}

// open opens the kept file of a digest, nil where there is none.
func (m *method) open(want string) *keptFile {
	if path, ok := m.kept[want]; ok {
		file, err := os.Open(path)
		if err != nil {
			return nil
		}
		if info, err := file.Stat(); err == nil {
			return &keptFile{file, file, info.ModTime()}
		}
		file.Close()
	}
	if m.Socket == "" {
		return nil
	}
	far, err := net.Dial("unix", m.Socket)
	if err != nil {
		return nil
	}
	if _, err = io.WriteString(far, want+"\n"); err == nil {
		content := bufio.NewReader(far)
		if _, err = content.Peek(1); err == nil {
			return &keptFile{content, far, time.Now()}
		}
	}
	far.Close()
	return nil
}

// give answers with the file of that digest, if it is kept. It says false where that is
// damaged, too.
func (m *method) give(request message, want string) bool {
	file := m.open(want)
	if file == nil {
		return false
	}
	defer file.Close()
	target, changed := request.get("Filename"), file.changed
	size, err := write(file, target, want)
	if err != nil {
		_ = os.Remove(target)
		return false
	}
	fields := []field{{"URI", request.get("URI")}, {"Size", strconv.FormatInt(size, 10)}, {"Last-Modified", changed.UTC().Format(http.TimeFormat)}}
	m.note(request, want, size, FromCache) // once apt has its last file, it ends this at once
	m.tell(message{uriStart, fields})
	m.tell(message{uriDone, append(fields, field{"Filename", target}, field{"SHA256-Hash", want}, field{"Checksum-FileSize-Hash", strconv.FormatInt(size, 10)})})
	return true
}

var errDigest = errors.New("it has another digest")

// copyFile copies a file that must have the digest.
func copyFile(from, to, want string) (size int64, err error) {
	source, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer source.Close()
	return write(source, to, want)
}

// write writes a file that must have the digest.
func write(source io.Reader, to, want string) (size int64, err error) {
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return 0, err
	}
	sum := sha256.New()
	size, err = io.Copy(io.MultiWriter(target, sum), source)
	if err == nil && hex.EncodeToString(sum.Sum(nil)) != want {
		err = errDigest
	}
	return size, errors.Join(err, target.Close())
}

func (m *method) note(request message, sha256 string, size int64, from string) {
	note(filepath.Join(m.folder, newFolder), Fetched{
		Name: nameOf(request), URI: PublicAddress(request.get("URI")), Base: PublicAddress(request.get("Target-Repo-URI")), SHA256: sha256, Size: size, List: isList(request), From: from,
	})
}

// PublicAddress is an address without user, password and query.
func PublicAddress(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	if end := strings.IndexAny(rest, "?#"); end >= 0 {
		rest = rest[:end]
	}
	machine, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndex(machine, "@"); at >= 0 {
		machine = machine[at+1:]
	}
	return scheme + "://" + machine + "/" + path
}

func (m *method) refuse(request message, why string) {
	m.note(request, "", 0, Missing)
	m.tell(message{uriFailure, []field{{"URI", request.get("URI")}, {"Message", why}, {"FailReason", "HttpError404"}}})
}

// ask has a child fetch a file from an address.
func (m *method) ask(a *asking, address string) error {
	scheme, _, _ := strings.Cut(address, ":")
	c, err := m.child(scheme)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.waiting[address] = a
	m.mu.Unlock()
	return c.tell(a.request.with("URI", address))
}

// child is apt's own method for a scheme, started where it does not run yet.
func (m *method) child(scheme string) (*child, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.known[scheme]; c != nil {
		return c, nil
	}
	if scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("%q is no way to fetch files", scheme)
	}
	cmd := host.Tied(m.ctx, filepath.Join(MethodsFolder, scheme))
	cmd.Env, cmd.Stderr = os.Environ(), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, theirs, err := os.Pipe() // not StdoutPipe, which is closed before all is read
	if err != nil {
		return nil, err
	}
	cmd.Stdout = theirs
	first := len(m.known) == 0
	c := &child{in: in}
	started := make(chan error, 1)
	m.workers.Go(func() {
		_ = host.OnOneThread(func() error {
			err := cmd.Start()
			theirs.Close()
			started <- err
			if err != nil {
				return err
			}
			return cmd.Wait()
		})
	})
	if err := <-started; err != nil {
		return nil, errors.Join(err, out.Close())
	}
	for _, settings := range m.config {
		if err := c.tell(settings); err != nil {
			return nil, err
		}
	}
	m.known[scheme] = c
	m.workers.Go(func() { m.listen(out, first) })
	return c, nil
}

// listen deals with what a child says. The capabilities of the first one are this method's.
func (m *method) listen(out io.ReadCloser, first bool) {
	defer out.Close()
	answers := bufio.NewReader(out)
	for {
		answer, err := readMessage(answers)
		if err != nil {
			return
		}
		if answer.is("100") && !first {
			continue
		}
		m.heard(answer)
	}
}

// heard deals with one message of a child.
func (m *method) heard(answer message) {
	address := answer.get("URI")
	m.mu.Lock()
	a := m.waiting[address]
	ends := a != nil && (answer.is(uriDone) || answer.is(uriFailure) || answer.is(redirect))
	if ends {
		delete(m.waiting, address)
	}
	m.mu.Unlock()
	if a == nil {
		m.tell(answer)
		return
	}
	original := a.request.get("URI")
	switch {
	case !ends:
		m.tell(answer.with("URI", original))
	case answer.is(redirect) && address == original && len(a.next) == 0:
		m.tell(answer) // apt asks again, for the other address
	case answer.is(redirect) && a.led < mostRedirects && !weaker(address, answer.get("New-URI")):
		a.led++
		m.again(a, append([]string{answer.get("New-URI")}, a.next...), answer)
	case answer.is(uriDone) && m.matches(a, answer):
		m.keep(a.request, answer)
		m.tell(answer.with("URI", original))
	default:
		m.again(a, a.next, answer)
	}
}

// weaker says whether a redirection leads from an encrypted connection to one that is not,
// which apt forbids.
func weaker(from, to string) bool {
	return strings.HasPrefix(from, "https:") && !strings.HasPrefix(to, "https:")
}

// matches says whether what a child has fetched is what is wanted.
func (m *method) matches(a *asking, answer message) bool {
	got := answer.get("SHA256-Hash")
	return a.want == "" || got == a.want || got == "" && answer.get("IMS-Hit") == "true" && !m.Pinned
}

// again asks for a file at the next address, or says that it is nowhere.
func (m *method) again(a *asking, addresses []string, answer message) {
	original := a.request.get("URI")
	if !answer.is(uriFailure) {
		_ = os.Remove(a.request.get("Filename"))
		answer = message{uriFailure, []field{{"URI", original}, {"Message", "it is not what it was: its SHA-256 is " + answer.get("SHA256-Hash")}, {"FailReason", "HttpError404"}}}
	}
	for len(addresses) > 0 {
		retry := *a
		retry.next, retry.request = addresses[1:], a.request.without("Last-Modified")
		if m.ask(&retry, addresses[0]) == nil {
			return
		}
		addresses = addresses[1:]
	}
	m.note(a.request, "", 0, Missing)
	m.tell(answer.with("URI", original))
}

// keep copies what was fetched.
func (m *method) keep(request, answer message) {
	sum, name := answer.get("SHA256-Hash"), nameOf(request)
	if !plainSum.MatchString(sum) || !sound(name) || !isList(request) && request.get("Expected-SHA256") == "" {
		return
	}
	folder := filepath.Join(m.folder, newFolder)
	target := filepath.Join(folder, KeptName(sum, name))
	size, err := copyFile(answer.get("Filename"), target+".part", sum)
	if err == nil {
		err = os.Rename(target+".part", target)
	}
	if err != nil { // it is fetched again another time
		_ = os.Remove(target + ".part")
	}
	m.note(request, sum, size, FromArchive)
}
