package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/catalogue"
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
are published to the OCI layouts in DIR/` + layoutsFolder + ` first, at the start and whenever
one is built anew. A DIR that holds OCI layouts and no builds is offered as it is.
Interrupting it is its normal end.

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
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return &fail.Error{Kind: fail.Host, Err: err, Hint: "choose another address with --listen"}
	}
	pages := catalogue.New(shelf.root)
	server := &http.Server{Handler: pages, TLSConfig: &encryption, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	ended := make(chan error, 1)
	go func() {
		if o.cert != "" {
			ended <- server.ServeTLS(listener, "", "")
			return
		}
		ended <- server.Serve(listener)
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
			shelf.publish(ctx, stderr)
		}
	}
}

const rescanPeriod = 3 * time.Second

// shelf is the layouts that are served, and the builds that go there.
type shelf struct {
	root      string
	builds    string // "" where there are only layouts
	published map[string]time.Time
}

func openShelf(ctx context.Context, folder string, stderr io.Writer) (*shelf, error) {
	s := &shelf{root: filepath.Join(folder, layoutsFolder), builds: folder, published: map[string]time.Time{}}
	s.publish(ctx, stderr)
	if names, err := catalogue.Repositories(s.root); err == nil && len(names) > 0 {
		return s, nil
	}
	if names, err := catalogue.Repositories(folder); err == nil && len(names) > 0 {
		return &shelf{root: folder}, nil
	}
	return nil, fail.New(fail.Usage, "", "run 'vmctl build debian' first, or name a folder of OCI layouts", "there is nothing to serve in %s", folder)
}

// publish puts builds that are new into their layouts. One that cannot be
// published is told of, and does not stop the others.
func (s *shelf) publish(ctx context.Context, stderr io.Writer) {
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
		if err != nil || s.published[file].Equal(info.ModTime()) || ctx.Err() != nil {
			continue
		}
		s.published[file] = info.ModTime()
		if err := s.publishOne(ctx, filepath.Dir(file), stderr); err != nil {
			fmt.Fprintf(stderr, "vmctl: %s is not offered: %v\n", filepath.Dir(file), err)
		}
	}
}

func (s *shelf) publishOne(ctx context.Context, folder string, stderr io.Writer) error {
	release, err := readRelease(folder, nil)
	if err != nil {
		return err
	}
	ref, err := publish.Layout(filepath.Join(s.root, release.Name), "")
	if err != nil {
		return err
	}
	pushed, err := pushTo(ctx, publish.Access{Owner: files.Caller()}, ref, release, publish.PushOptions{})
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "offered: %s:%s\n", release.Name, pushed[0].Tags[0])
	return nil
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
