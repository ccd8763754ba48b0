package orchestrator

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/download"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// Pinned is what a source that is downloaded was found to be when the build began. It holds
// nothing secret.
type Pinned struct {
	Digest string       `json:"digest"` // ALGORITHM:HEX, of all of it
	Files  []PinnedFile `json:"files"`  // in the order in which they are used
}

// PinnedFile is a file of it.
type PinnedFile struct {
	Name   string `json:"name"`   // for people
	Digest string `json:"digest"` // ALGORITHM:HEX
	Size   int64  `json:"size,omitempty"`
	Plain  string `json:"plain,omitempty"` // digest of a layer once it is unpacked
}

// Images is where container images come from; cmd/vmctl wires registries in.
type Images interface {
	// Resolve is the image that a reference means, of the architecture.
	Resolve(ctx context.Context, reference, architecture string) (Pinned, error)
	// Open opens a layer of it.
	Open(reference string, layer PinnedFile) download.Opener
}

var pinnedDigest = regexp.MustCompile(`^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)

// check refuses what would be more than a digest in names of files.
func (p *Pinned) check() error {
	if p == nil {
		return nil
	}
	digests := []string{p.Digest}
	for _, f := range p.Files {
		digests = append(digests, f.Digest)
	}
	for _, digest := range digests {
		if !pinnedDigest.MatchString(digest) {
			return fmt.Errorf("%q is no digest of what the source is made of", digest)
		}
	}
	return nil
}

// supplier gets what a source is made of, outside of the jail: with the caller's network,
// proxies, certificates and credentials, which nothing in a jail needs to have.
type supplier struct {
	plan    Plan
	source  definition.Source
	images  Images
	pinned  *Pinned
	host    host.Host // for tools; nil for nothing but what was found out before
	work    string    // folder for files in passing
	store   *store.Store
	agent   string // for servers
	offline bool
	tell    func(Event)
	log     io.Writer
}

func (b Builder) supplier(plan Plan, h host.Host, work string, log io.Writer) (*supplier, error) {
	layers, err := store.Open(b.Store)
	return &supplier{
		plan: plan, source: plan.Definition.Source, images: b.Images, host: h, work: work, store: layers, agent: "vmctl/" + strings.ReplaceAll(b.Version, " ", "-"), offline: b.How.Offline, tell: b.Tell, log: log,
	}, err
}

// pin finds out what the source is, nil for one that is not downloaded. Without network it is
// what it was found to be last.
func (s *supplier) pin(st *stages) (pinned *Pinned, err error) {
	switch t := s.source.Tarball; {
	case !s.source.Outside():
		return nil, nil
	case s.source.Installer != nil:
		pinned = pinnedInstaller(*s.source.Installer)
	case t != nil:
		digest := "sha256:" + t.SHA256
		pinned = &Pinned{Digest: digest, Files: []PinnedFile{{Name: nameIn(t.URL), Digest: digest}}}
	case s.plan.Lock != nil && s.plan.Lock.Pinned != nil:
		pinned = s.plan.Lock.Pinned
	case s.host == nil || s.offline && !s.local() && !s.told():
		pinned, err = s.pinnedBefore()
	default:
		pinned, err = step(st, "Resolve", s.resolve)
	}
	s.pinned = pinned
	return pinned, err
}

// local says whether the source needs no network.
func (s *supplier) local() bool {
	if s.source.OCI == nil {
		return false
	}
	kind, _ := s.source.OCI.Local()
	return kind != ""
}

// told says whether the definition tells all that resolve would ask for.
func (s *supplier) told() bool {
	c := s.source.CloudImage
	return c != nil && c.URL != "" && c.SHA512 != "" && c.Keyring == ""
}

// resolve asks what the source is now.
func (s *supplier) resolve(ctx context.Context) (*Pinned, error) {
	var found Pinned
	var err error
	if c := s.source.CloudImage; c != nil {
		found, err = s.resolveCloudImage(ctx, *c)
	} else {
		found, err = s.images.Resolve(ctx, s.reference(), arch.Target.OCI)
	}
	if err == nil {
		err = found.check()
	}
	if err != nil {
		return nil, err
	}
	content, err := json.Marshal(found)
	if err != nil {
		return nil, err
	}
	for _, record := range s.pinRecords() {
		if err := errors.Join(os.MkdirAll(filepath.Dir(record), 0o700), replaceFile(record, content)); err != nil {
			return nil, err
		}
	}
	return &found, nil
}

// reference is the container image, by a path that does not depend on the working folder.
func (s *supplier) reference() string {
	kind, rest := s.source.OCI.Local()
	if kind != "" && !filepath.IsAbs(rest) {
		return kind + ":" + s.plan.Project + "/" + rest
	}
	return s.source.OCI.Image
}

// shown is what the source is called for people.
func (s *supplier) shown() string {
	if c := s.source.CloudImage; c != nil {
		return describeCloudImage(*c)
	}
	return s.source.OCI.Image
}

// pinRecords is where the store remembers what the source was found to be last: for this build,
// and for any.
func (s *supplier) pinRecords() []string {
	folder := filepath.Join(s.store.Folder(), "archives", "pinned")
	return []string{filepath.Join(folder, digestOf(s.source, s.plan.Definition.Name)+".json"), filepath.Join(folder, digestOf(s.source)+".json")}
}

func (s *supplier) pinnedBefore() (*Pinned, error) {
	records := s.pinRecords()
	content, err := os.ReadFile(records[0])
	if errors.Is(err, fs.ErrNotExist) {
		content, err = os.ReadFile(records[1])
	}
	var before Pinned
	if err == nil {
		err = json.Unmarshal(content, &before)
	}
	if err != nil {
		return nil, fail.New(fail.Build, "--offline", hintOnline, "the store does not know what %s is", s.shown())
	}
	return &before, before.check()
}

// nameIn is the name of the file at an address.
func nameIn(address string) string {
	parsed, err := url.Parse(address)
	if err != nil || path.Base(parsed.Path) == "/" || path.Base(parsed.Path) == "." {
		return "source"
	}
	return path.Base(parsed.Path)
}

// supplied is what a jail is answered that asks for what its source is made of.
type supplied struct {
	Files   []string `json:"files,omitempty"` // of the store's downloads, each with its digest
	Failure *failure `json:"failure,omitempty"`
}

// supply answers a jail.
func (s *supplier) supply(ctx context.Context) (answer supplied) {
	for _, file := range s.pinned.Files {
		name, err := s.file(ctx, file)
		if err != nil {
			return supplied{Failure: newFailure(explainFull(err, storePlace(s.store.Folder())))}
		}
		answer.Files = append(answer.Files, name)
	}
	return answer
}

// file makes sure that the store has a file, all of it and with its digest.
func (s *supplier) file(ctx context.Context, file PinnedFile) (name string, err error) {
	if name, err = s.kept(ctx, file); name != "" || err != nil {
		return name, err
	}
	if s.offline && !s.local() {
		return "", fail.New(fail.Build, "--offline", hintOnline, "the store lacks %s, %s", file.Name, file.Digest)
	}
	folder, err := s.store.Partial()
	if err != nil {
		return "", err
	}
	moving := Event{Kind: Transferred, Stage: sourceTitle, Text: file.Name}
	err = download.File{
		Name: file.Name, Open: s.opener(file), Digest: file.Digest, Size: file.Size, Folder: folder,
		Tell: func(done, total int64) {
			moving.Done, moving.Total = done, total
			s.tell(moving)
		},
		Note: func(text string) {
			fmt.Fprintf(s.log, "%s: %s\n", file.Name, text)
			s.tell(Event{Kind: TaskSeen, Stage: sourceTitle, Status: "note", Text: file.Name + ": " + text})
		},
		There: func() bool {
			name, err = s.kept(ctx, file)
			return name != "" || err != nil
		},
		Keep: func(path, sum string) error {
			name, err = s.store.Adopt(path, sum, file.Name)
			return errors.Join(err, s.remember(file.Digest, sum))
		},
	}.Get(ctx)
	if moving.Status = "done"; err == nil && moving.Done > 0 {
		s.tell(moving)
	}
	return name, err
}

func (s *supplier) opener(file PinnedFile) download.Opener {
	switch {
	case s.source.OCI != nil:
		return s.images.Open(s.reference(), file)
	case s.source.CloudImage != nil:
		return download.HTTP(s.agent, cloudImageAddress(*s.source.CloudImage, file.Name))
	case s.source.Installer != nil:
		return download.HTTP(s.agent, s.source.Installer.Files()[file.Name].URL)
	}
	return download.HTTP(s.agent, s.source.Tarball.URL)
}

// kept is the name of a file that the store has, "" for none. One that no longer has its
// digest is removed.
func (s *supplier) kept(ctx context.Context, file PinnedFile) (string, error) {
	kind, sum, _ := strings.Cut(file.Digest, ":")
	if kind != "sha256" {
		content, err := os.ReadFile(s.otherSum(file.Digest))
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		sum = string(content)
	}
	name, err := s.store.Kept(sum)
	if name == "" || err != nil {
		return "", err
	}
	path := filepath.Join(s.store.DownloadsFolder(), name)
	got, err := digestOfFile(ctx, path, kind)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil && kind+":"+got != file.Digest {
		fmt.Fprintf(s.log, "%s is damaged: its %s is %s\n", path, kind, got)
		return "", os.Remove(path)
	}
	s.store.Used(name)
	return name, err
}

func digestOfFile(ctx context.Context, path, kind string) (string, error) {
	file, err := files.OpenRegular(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if kind == "sha512" {
		sum = sha512.New()
	}
	_, err = files.Copy(ctx, sum, file)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// otherSum is where the store remembers which SHA-256 a file of another digest has.
func (s *supplier) otherSum(digest string) string {
	return filepath.Join(s.store.Folder(), "archives", "sums", strings.ReplaceAll(digest, ":", "-"))
}

func (s *supplier) remember(digest, sum string) error {
	if strings.HasPrefix(digest, "sha256:") {
		return nil
	}
	name := s.otherSum(digest)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return replaceFile(name, []byte(sum))
}
