package orchestrator

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/download"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/orchestrator/unpack"
)

// officialImages is where Debian publishes its images for clouds: SUITE/latest/ has those of
// the last point release, with SHA512SUMS.
const officialImages = "https://cloud.debian.org/images/cloud"

const (
	sumsName    = "SHA512SUMS"
	largestSums = 1 << 20 // bytes
)

// cloudImageNames is what an official image may be called, the smallest first that takes no
// long decompression.
func cloudImageNames(c definition.CloudImage) []string {
	number, end := debian.ReleaseNumber(c.Suite), ""
	if number == "" {
		number, end = c.Suite, "-daily"
	}
	stem := fmt.Sprintf("debian-%s-%s-%s%s", number, c.Flavour, c.Arch, end)
	return []string{stem + "." + diskformat.QCOW2, stem + ".tar.xz", stem + "." + diskformat.Raw}
}

// cloudImageFolder is the address of the folder that has the image, with a slash at its end.
func cloudImageFolder(c definition.CloudImage) string {
	if c.URL != "" {
		if address, err := url.Parse(c.URL); err == nil {
			return address.ResolveReference(&url.URL{Path: "."}).String()
		}
	}
	mirror := strings.TrimSuffix(c.Mirror, "/")
	if mirror == "" {
		mirror = officialImages
	}
	if debian.ReleaseNumber(c.Suite) == "" {
		return mirror + "/" + c.Suite + "/daily/latest/"
	}
	return mirror + "/" + c.Suite + "/latest/"
}

// cloudImageAddress is that of the image, which has that name.
func cloudImageAddress(c definition.CloudImage, name string) string {
	if c.URL != "" {
		return c.URL
	}
	return cloudImageFolder(c) + name
}

func describeCloudImage(c definition.CloudImage) string {
	switch {
	case c.File != "":
		return c.File
	case c.URL != "":
		return definition.PublicAddress(c.URL)
	}
	return definition.PublicAddress(cloudImageFolder(c)) + cloudImageNames(c)[0]
}

// resolveCloudImage finds out which file the image is, by its digest: that of the definition,
// or of the list that lies beside it.
func (s *supplier) resolveCloudImage(ctx context.Context, c definition.CloudImage) (p Pinned, err error) {
	names := []string{nameIn(c.URL)}
	if c.Suite != "" {
		names = cloudImageNames(c)
	}
	name, sum := names[0], c.SHA512
	if sum != "" {
		pinned := Pinned{Digest: "sha512:" + sum, Files: []PinnedFile{{Name: name, Digest: "sha512:" + sum}}}
		if there, err := s.kept(ctx, pinned.Files[0]); there != "" || err != nil {
			return pinned, err
		}
	}
	if sum == "" || c.Suite != "" || c.Keyring != "" {
		sums, err := s.sums(ctx, c)
		if err != nil {
			return p, err
		}
		if name, sum, err = chooseSum(sums, names, c.SHA512); err != nil {
			return p, fail.Wrap(fail.Build, definition.PublicAddress(cloudImageFolder(c))+sumsName, err)
		}
	}
	digest := "sha512:" + sum
	return Pinned{Digest: digest, Files: []PinnedFile{{Name: name, Digest: digest}}}, nil
}

// chooseSum is the first of the names that a list has, and its digest, which must be the
// pinned one where there is one.
func chooseSum(sums []byte, names []string, pinned string) (name, sum string, err error) {
	listed := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		if digest, file, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			listed[strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(file), "*"), "./")] = strings.ToLower(digest)
		}
	}
	for _, name := range names {
		if sum, ok := listed[name]; ok && (pinned == "" || pinned == sum) {
			return name, sum, nil
		}
	}
	for _, name := range names {
		if sum, ok := listed[name]; ok {
			return "", "", fail.New(fail.Build, "", "see whether there is a newer image, and pin that", "it says of %s that its SHA512 is %s, and not the pinned %s", name, sum, pinned)
		}
	}
	return "", "", fail.New(fail.Build, "", "correct the definition, or pin the image with sha512", "it does not have %s", strings.Join(names, " or "))
}

// sums is the list of digests beside the image, whose signature is checked where keys are
// given.
func (s *supplier) sums(ctx context.Context, c definition.CloudImage) ([]byte, error) {
	folder := cloudImageFolder(c)
	shown := definition.PublicAddress(folder)
	sums, err := download.Small(ctx, s.agent, folder+sumsName, largestSums)
	if download.IsMissing(err) {
		return nil, fail.New(fail.Build, shown+sumsName, "pin the image with sha512", "there is no list of digests: %w", err)
	}
	if err != nil {
		return nil, fail.Wrap(fail.Build, "download "+shown+sumsName, err)
	}
	if c.Keyring == "" {
		return sums, nil
	}
	for _, end := range []string{".sign", ".gpg", ".asc"} {
		signature, err := download.Small(ctx, s.agent, folder+sumsName+end, largestSums)
		if download.IsMissing(err) {
			continue
		}
		if err != nil {
			return nil, fail.Wrap(fail.Build, "download "+shown+sumsName+end, err)
		}
		return sums, s.verify(ctx, shown+sumsName+end, s.plan.assetPath(c.Keyring), signature, sums)
	}
	return nil, fail.New(fail.Build, shown+sumsName, "remove keyring, and pin the image with sha512", "it has no signature, and the definition names keys that must have signed it")
}

// verify checks the OpenPGP signature of a document.
func (s *supplier) verify(ctx context.Context, shown, keyring string, signature, document []byte) (err error) {
	folder := filepath.Join(s.work, "signature")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	keys, err := os.ReadFile(keyring)
	if err != nil {
		return err
	}
	if keys, err = unarmoured(keys); err != nil {
		return fail.New(fail.Usage, keyring, "write it with 'gpg --export'", "%w", err)
	}
	at := func(name string) string { return filepath.Join(folder, name) }
	if err := errors.Join(os.WriteFile(at("keys.gpg"), keys, 0o600), os.WriteFile(at("signature"), signature, 0o600), os.WriteFile(at("document"), document, 0o600)); err != nil {
		return err
	}
	if err := s.host.Run(ctx, host.Cmd("gpgv", "--keyring", at("keys.gpg"), at("signature"), at("document"))); err != nil {
		return &fail.Error{Kind: fail.Build, Op: shown, Hint: "it is not signed by the keys of the definition: do not trust it", Tail: fail.Tail(err), Err: err}
	}
	return nil
}

// unarmoured is keys as gpgv wants them (RFC 9580, 6.2): several blocks may follow each other.
func unarmoured(keys []byte) ([]byte, error) {
	if !bytes.Contains(keys, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")) {
		return keys, nil
	}
	var plain []byte
	var block strings.Builder
	inside, headers := false, false
	for line := range strings.Lines(string(keys)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "-----BEGIN PGP PUBLIC KEY BLOCK-----"):
			inside, headers = true, true
		case strings.HasPrefix(line, "-----END PGP"):
			part, err := base64.StdEncoding.DecodeString(block.String())
			if err != nil {
				return nil, errors.New("the keys are damaged")
			}
			plain, inside = append(plain, part...), false
			block.Reset()
		case inside && headers:
			headers = line != ""
		case inside && !strings.HasPrefix(line, "="): // a checksum
			block.WriteString(line)
		}
	}
	return plain, nil
}

// cloudImageDigest is what the source is, wherever it comes from.
func (p Plan) cloudImageDigest(ctx context.Context) (string, error) {
	c := p.Definition.Source.CloudImage
	if c.File == "" {
		return p.Pinned.Digest, nil
	}
	file := p.assetPath(c.File)
	if c.SHA512 == "" {
		digest, _, err := image.Digest(ctx, file)
		return "sha256:" + digest, err
	}
	sum, err := digestOfFile(ctx, file, "sha512")
	if err == nil && sum != c.SHA512 {
		return "", fail.New(fail.Build, "source.cloudimage", "get the file again, or correct the digest", "its SHA512 is %s, and %s is wanted", sum, c.SHA512)
	}
	return "sha512:" + sum, err
}

// unpackDisk gives the tree at root the files of the disk image in a file.
func (w *workshop) unpackDisk(ctx context.Context, root, name string) (err error) {
	defer func() { err = asBuild(err) }()
	folder := filepath.Join(w.work, "disk-image")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	raw, err := w.rawDiskIn(ctx, name, folder)
	if err != nil {
		return err
	}
	defer raw.Close()
	_, err = w.unpackRaw(ctx, root, raw)
	return err
}

// unpackRaw does so with a raw disk, and returns the system that is on it.
func (w *workshop) unpackRaw(ctx context.Context, root string, raw *os.File) (*rawdisk.System, error) {
	info, err := raw.Stat()
	if err != nil {
		return nil, err
	}
	system, err := rawdisk.OpenSystem(raw, info.Size())
	if unread, is := errors.AsType[*rawdisk.Unread](err); is {
		system, err = w.readByKernel(ctx, root, raw, info.Size(), *unread)
	} else if err == nil {
		err = unpack.Disk(ctx, system, root)
	}
	if err != nil {
		return nil, err
	}
	return system, host.Tree(root).Remove(ofOtherDisks...)
}

// readByKernel gives the tree at root the files of a disk whose root file system only the
// kernel can read, and those that belong into it.
func (w *workshop) readByKernel(ctx context.Context, root string, raw *os.File, size int64, of rawdisk.Unread) (*rawdisk.System, error) {
	name, err := filepath.EvalSymlinks(raw.Name())
	if err != nil {
		return nil, err
	}
	volume := disk.Volume{Filesystem: of.Filesystem, Start: of.Start, Size: of.Size}
	if err := w.outside.Read(ctx, volume, name, root); err != nil {
		return nil, err
	}
	fstab, err := host.Tree(root).Read("/etc/fstab")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	mounts, err := rawdisk.OpenMounts(raw, size, of.Number, fstab)
	if err != nil {
		return nil, err
	}
	return mounts, unpack.Mounts(ctx, mounts, root)
}

// ofOtherDisks is what belongs to the disk that a tree comes from: packages that bring a kernel
// would ask for that one's devices.
var ofOtherDisks = []string{"/boot/grub/grub.cfg"}

// asBuild makes what is wrong with an image a failure of the build: nobody has named it on the
// command line.
func asBuild(err error) error {
	if failed, ok := errors.AsType[*fail.Error](err); ok && failed.Kind == fail.Usage {
		return &fail.Error{Kind: fail.Build, Hint: failed.Hint, Tail: failed.Tail, Err: errors.New(err.Error())}
	}
	return err
}

// largestDisk is how many bytes a disk image may be said to hold.
const largestDisk = 16 << 40

// rawDiskIn is the raw disk that a file holds, whatever it is packed in. What that takes in
// passing is in the folder.
func (w *workshop) rawDiskIn(ctx context.Context, name, folder string) (*os.File, error) {
	packed, err := files.OpenRegular(name)
	if err != nil {
		return nil, err
	}
	defer packed.Close()
	unxz := func(ctx context.Context, in io.Reader, out io.Writer) error {
		c := host.Cmd("xz", "--decompress", "--stdout", "--memlimit-decompress=1GiB")
		c.Input, c.Output = in, out
		return w.host.Run(ctx, c)
	}
	at := filepath.Join(folder, "image")
	unpacked, err := unpack.DiskImage(ctx, packed, unxz, at, diskformat.Suffixes())
	if err != nil {
		return nil, err
	}
	if !unpacked {
		at = name
	}
	file, format, err := image.Open(at, "")
	if err != nil || format == diskformat.Raw {
		return file, err
	}
	defer file.Close()
	if err := w.checkVirtualSize(ctx, file, format); err != nil {
		return nil, err
	}
	raw := filepath.Join(folder, "raw")
	if err := w.host.Run(ctx, image.Unpack(file, format, raw)); err != nil {
		return nil, err
	}
	return files.OpenRegular(raw)
}

func (w *workshop) checkVirtualSize(ctx context.Context, file *os.File, format string) error {
	size, err := image.VirtualSize(ctx, w.host, image.Name(file), format)
	if err == nil && size > largestDisk {
		err = fail.New(fail.Build, "", "", "the disk is said to have %d bytes: no more than %d are taken", size, int64(largestDisk))
	}
	return fail.Wrap(fail.Build, text.Line(path.Base(file.Name())), err)
}
