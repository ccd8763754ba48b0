# make debian        builds the image of install.d/debian.yml; sudo make debian does it as root
# sudo make test     runs every test
# sudo make bench    compares with vmdb2, see e2e/bench.sh
# make vmctl lint    need no root
# make dist          static binaries with checksums and SBOMs in dist/, the same bytes from the same commit
# make deb           a Debian package in dist/: binary, manual pages, completions, dependencies
# make image         a container image in dist/image/ in which .gitlab-ci.yml needs to install nothing

export PATH := $(PATH):/usr/local/go/bin
export CGO_ENABLED := 0

GO      ?= go
# --dirty compares files, for which git runs what the repository configures: not as root.
VERSION := $(shell git describe --tags --always $$(test "$$(id -u)" = 0 || echo --dirty) 2>/dev/null)
SOURCES := $(shell find cmd ansible orchestrator publish commands.d install.d embed.go go.mod go.sum -type f 2>/dev/null)
LINT    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0
NFPM    := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
BUILD    = $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.commit=$(VERSION)'
DIST    ?= dist
ARCHES  ?= amd64 arm64

.PHONY: debian test bench lint fuzz dist deb image clean

vmctl: $(SOURCES)
	$(BUILD) -o $@ ./cmd/vmctl

debian: vmctl
	./vmctl doctor --install-missing
	./vmctl build debian

# Of the end-to-end tests one runs besides those that processors are for: each waits now and then.
test: vmctl
	./vmctl doctor --install-missing --tests
	$(GO) vet -tags e2e ./...
	$(GO) test ./...
	VMCTL=$(CURDIR)/vmctl $(GO) test -tags e2e -count=1 -timeout 80m -parallel $$(($$(nproc) + 1)) -v ./e2e/...

bench: vmctl
	./vmctl doctor --install-missing --bench
	e2e/bench.sh

lint:
	$(GO) run $(LINT) run
	$(GO) run $(LINT) run --build-tags e2e ./e2e/...

fuzz:
	$(GO) test -run '^$$' -fuzz FuzzLoad -fuzztime 30s ./orchestrator/definition
	$(GO) test -run '^$$' -fuzz FuzzParseSize -fuzztime 30s ./orchestrator/definition
	$(GO) test -run '^$$' -fuzz FuzzJudge -fuzztime 30s ./orchestrator/boottest
	$(GO) test -run '^$$' -fuzz FuzzIdentify -fuzztime 30s ./orchestrator/diskformat
	$(GO) test -run '^$$' -fuzz FuzzEvents -fuzztime 30s ./ansible
	$(GO) test -run '^$$' -fuzz FuzzLine -fuzztime 30s ./orchestrator/text
	$(GO) test -run '^$$' -fuzz FuzzParseReference -fuzztime 30s ./publish/registry
	$(GO) test -run '^$$' -fuzz FuzzCheckFileName -fuzztime 30s ./publish/artifact
	$(GO) test -run '^$$' -fuzz FuzzStore -fuzztime 30s ./publish/registry
	$(GO) test -run '^$$' -fuzz FuzzInspect -fuzztime 30s ./publish
	$(GO) test -run '^$$' -fuzz FuzzPull -fuzztime 30s ./publish

# What is given to others is dated like its commit.
dist deb: export SOURCE_DATE_EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git rev-list -1 --timestamp HEAD | cut -d ' ' -f 1))

dist:
	mkdir -p $(DIST)
	rm -f $(DIST)/vmctl-* $(DIST)/SHA256SUMS
	set -e; for arch in $(ARCHES); do \
		binary=$(DIST)/vmctl-$(VERSION)-linux-$$arch; \
		GOOS=linux GOARCH=$$arch $(BUILD) -o $$binary ./cmd/vmctl; \
		$(GO) run ./cmd/package sbom $$binary '$(VERSION)' > $$binary.spdx.json; \
	done
	cd $(DIST) && LC_ALL=C sh -c 'sha256sum vmctl-* > SHA256SUMS'

deb:
	rm -rf $(DIST)/deb $(DIST)/vmctl_*.deb
	mkdir -p $(DIST)/deb
	$(BUILD) -o $(DIST)/deb/vmctl ./cmd/vmctl
	$(DIST)/deb/vmctl man $(DIST)/deb
	gzip -9n $(DIST)/deb/*.1
	set -e; for shell in bash fish zsh; do $(DIST)/deb/vmctl completion $$shell > $(DIST)/deb/$$shell; done
	$(GO) run ./cmd/package deb $(DIST)/deb '$(VERSION)' > $(DIST)/deb/nfpm.yaml
	$(GO) run $(NFPM) package --packager deb --config $(DIST)/deb/nfpm.yaml --target $(DIST)
	rm -r $(DIST)/deb

image: vmctl
	install -m 755 vmctl .ci/install.d/vmctl
	./vmctl build vmctl --definitions .ci -o $(DIST)/image

clean:
	rm -rf vmctl images conf.d dist .ci/install.d/vmctl
