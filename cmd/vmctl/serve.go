package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/catalogue"
	"github.com/btw-img/btw-img/publish/registry"
)

type serveOptions struct {
	folder string
	listen string
	cert   string
	key    string
}

func newServe() *cobra.Command {
	o := serveOptions{folder: defaultFolder}
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Offer the built images to a network, as a registry and as web pages",
		Long: `Offer the images that were built in DIR (default: images) to a network, read-only: as a
registry for vmctl, oras and skopeo, and as web pages at /. Images that were booted
are published to the OCI layouts in DIR/` + definition.LayoutsFolder + ` first, at the start and whenever
one is built anew. A DIR that holds OCI layouts and no builds is offered as it is.
What is sent lies in a layout, links out of it are not followed, and has the digest
that was asked for. Interrupting it is its normal end.

` + exitCodes,
		Example: `  vmctl serve
  vmctl serve images --listen 127.0.0.1:8080
  vmctl serve --tls-cert server.crt --tls-key server.key`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.folder = args[0]
			}
			return runServe(cmd, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", ":5000", "address and port to listen on")
	flags.StringVar(&o.cert, "tls-cert", "", "certificate (PEM), to serve over TLS")
	flags.StringVar(&o.key, "tls-key", "", "private key (PEM) of the certificate")
	return cmd
}

func runServe(cmd *cobra.Command, o serveOptions) error {
	if (o.cert == "") != (o.key == "") {
		return fail.New(fail.Usage, "", "give both, or neither", "--tls-cert and --tls-key go together")
	}
	var encryption tls.Config
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return fail.New(fail.Usage, "--tls-cert, --tls-key", "give a certificate and its private key, both in PEM", "%w", err)
		}
		encryption.Certificates = []tls.Certificate{pair}
	}
	ctx, stderr := cmd.Context(), cmd.ErrOrStderr()
	shelf, err := openShelf(ctx, o.folder, stderr)
	if err != nil || ctx.Err() != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return &fail.Error{Kind: fail.Host, Err: err, Hint: "choose another address with --listen"}
	}
	pages, err := catalogue.New(shelf.root)
	if err != nil {
		return errors.Join(&fail.Error{Kind: fail.Host, Op: "serve", Err: err}, listener.Close())
	}
	server := pages.Server()
	server.TLSConfig = &encryption
	limited := catalogue.Limited(listener)
	ended := make(chan error, 1)
	go func() {
		if o.cert != "" {
			ended <- server.ServeTLS(limited, "", "")
			return
		}
		ended <- server.Serve(limited)
	}()
	for _, url := range urls(listener.Addr(), o.cert != "") {
		fmt.Fprintln(cmd.OutOrStdout(), url)
	}
	for {
		select {
		case err := <-ended:
			return errors.Join(&fail.Error{Kind: fail.Host, Op: "serve", Err: err}, pages.Close())
		case <-ctx.Done():
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = server.Shutdown(grace) // downloads that still run are cut
			return errors.Join(server.Close(), pages.Close())
		case <-time.After(rescanPeriod):
			shelf.offer(ctx, stderr)
		}
	}
}

const rescanPeriod = 3 * time.Second

// shelf is the layouts that are served, and the builds that go there.
type shelf struct {
	root    string
	builds  string // "" where there are only layouts
	offered map[string]time.Time
}

func openShelf(ctx context.Context, folder string, stderr io.Writer) (*shelf, error) {
	s := &shelf{root: filepath.Join(folder, definition.LayoutsFolder), builds: folder, offered: map[string]time.Time{}}
	s.offer(ctx, stderr)
	for _, one := range []*shelf{s, {root: folder}} {
		names, odd, err := catalogue.Repositories(one.root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, &fail.Error{Kind: fail.Host, Op: "serve " + folder, Err: err, Hint: "make all folders in it readable, or move them away"}
		}
		for _, name := range odd {
			fmt.Fprintf(stderr, "vmctl: %q is not offered: %s\n", filepath.Join(one.root, name), catalogue.NameRule)
		}
		if len(names) > 0 || ctx.Err() != nil {
			return one, nil
		}
	}
	return nil, fail.New(fail.Usage, "", "run 'vmctl build debian' first, or name a folder of OCI layouts", "there is nothing to serve in %s", folder)
}

// offer puts builds that are new into their layouts. One that cannot be
// published is told of, and does not stop the others.
func (s *shelf) offer(ctx context.Context, stderr io.Writer) {
	if s.builds == "" {
		return
	}
	finished, err := fs.Glob(os.DirFS(s.builds), "*/"+orchestrator.ChecksumsName) // the last file that a build writes
	if err != nil {
		return
	}
	for _, name := range finished {
		file := filepath.Join(s.builds, name)
		info, err := os.Stat(file)
		if err != nil || s.offered[file].Equal(info.ModTime()) || ctx.Err() != nil {
			continue
		}
		s.offered[file] = info.ModTime()
		s.offerOne(ctx, filepath.Dir(file), stderr)
	}
}

func (s *shelf) offerOne(ctx context.Context, folder string, stderr io.Writer) {
	release, err := readRelease(folder, nil)
	if err == nil {
		err = s.offerRelease(ctx, release, stderr)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	what := "is not offered"
	if s.holds(filepath.Base(folder)) {
		what = "is not offered as it was built last, but as before"
	}
	fmt.Fprintf(stderr, "vmctl: %s %s: %s\n", text.Line(folder), what, text.Line(err.Error()))
	if hint := fail.Hint(err); hint != "" {
		fmt.Fprintln(stderr, "hint:", text.Line(hint))
	}
}

// holds says whether there is a layout for the build of that name.
func (s *shelf) holds(name string) bool {
	_, err := os.Stat(filepath.Join(s.root, name, ocispec.ImageLayoutFile))
	return err == nil
}

// offerRelease pushes a build to its layout, unless it is the newest one there:
// who serves need not be able to write then.
func (s *shelf) offerRelease(ctx context.Context, release artifact.Release, stderr io.Writer) error {
	if !catalogue.IsName(release.Name) {
		return fail.New(fail.Usage, "", "give the build another name", "%s", catalogue.NameRule)
	}
	ref, err := layoutOf(s.root, release.Name)
	if err != nil {
		return err
	}
	access := registry.Access{Owner: files.Caller()}
	tag := newestOf(ctx, access, ref, release)
	if tag == "" {
		pushed, err := pushTo(ctx, access, ref, release, publish.PushOptions{})
		if err != nil {
			return err
		}
		tag = pushed[0].Tags[0]
	}
	fmt.Fprintf(stderr, "offered: %s:%s\n", release.Name, text.Line(tag))
	return nil
}

// newestOf is the immutable tag of the newest release in a layout, if it is this
// one, else "".
func newestOf(ctx context.Context, access registry.Access, ref registry.Reference, release artifact.Release) string {
	src, err := access.OpenPlace(ctx, ref)
	if err != nil {
		return ""
	}
	there, err := publish.Inspect(ctx, src, ref, publish.ReadOptions{Selection: publish.Selection{Architecture: release.Architecture}})
	if err != nil || len(release.Disks) == 0 || there.Disk.Digest != release.Disks[0].Digest || there.Config.Build != release.BuildID {
		return ""
	}
	return there.Release
}

// urls is where the server can be reached.
func urls(addr net.Addr, secure bool) []string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return []string{scheme + "://" + addr.String() + "/"}
	}
	all := []string{fmt.Sprintf("%s://localhost:%d/", scheme, tcp.Port)}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return all
	}
	for _, a := range addresses {
		if network, ok := a.(*net.IPNet); ok && network.IP.IsGlobalUnicast() {
			all = append(all, fmt.Sprintf("%s://%s/", scheme, net.JoinHostPort(network.IP.String(), fmt.Sprint(tcp.Port))))
		}
	}
	return all
}
