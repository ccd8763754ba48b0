package catalogue

import (
	"container/list"
	"context"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"

	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/registry"
)

// version is what tells whether a layout was pushed to: each push puts another
// index in the place of the one before.
type version struct {
	device, inode uint64
	size          int64
	modified      syscall.Timespec
}

func versionOf(fsys fs.FS) (version, error) {
	info, err := fs.Stat(fsys, ocispec.ImageIndexFile)
	if err != nil {
		return version{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return version{}, errName
	}
	return version{stat.Dev, stat.Ino, stat.Size, stat.Mtim}, nil
}

// layout is a layout as it was when it was read.
type layout struct {
	version version
	store   *registry.Store
	tags    []string // that name a release
}

// seen is an image of a layout's version.
type seen struct {
	repository, tag string
	version         version
}

// cached is an image in the list of those that were used last.
type cached struct {
	key   seen
	image publish.Inspection
	bytes int64
}

// cache holds what was read of the layouts and their images until a layout
// changes. Images hold all their attached files: those that were not asked for
// the longest are dropped once all of them take more than limit bytes.
type cache struct {
	limit   int64
	reading singleflight.Group // who asks for what is being read waits for it

	mu      sync.Mutex
	layouts map[string]layout // by repository
	images  map[seen]*list.Element
	used    *list.List // of cached; the last used first
	bytes   int64
}

const cacheLimit = 64 << 20 // bytes

func newCache() *cache {
	return &cache{limit: cacheLimit, layouts: map[string]layout{}, images: map[seen]*list.Element{}, used: list.New()}
}

// layout reads a layout, unless it is as it was.
func (c *cache) layout(ctx context.Context, fsys fs.FS, repository string) (layout, error) {
	now, err := versionOf(fsys)
	c.mu.Lock()
	known, ok := c.layouts[repository]
	if err != nil {
		delete(c.layouts, repository)
	}
	c.mu.Unlock()
	if err != nil || ok && known.version == now {
		return known, err
	}
	read, err, _ := c.reading.Do(repository, func() (any, error) {
		l, err := readLayout(context.WithoutCancel(ctx), fsys, now)
		if err == nil {
			c.mu.Lock()
			c.layouts[repository] = l
			c.mu.Unlock()
		}
		return l, err
	})
	return read.(layout), err
}

func readLayout(ctx context.Context, fsys fs.FS, now version) (layout, error) {
	store, err := registry.OpenStore(fsys)
	if err != nil {
		return layout{}, err
	}
	l := layout{version: now, store: store}
	err = store.Tags(ctx, "", func(some []string) error {
		for _, name := range some {
			if publish.IsRelease(ctx, store, name) {
				l.tags = append(l.tags, name)
			}
		}
		return nil
	})
	return l, err
}

// image inspects an image of a layout, unless that was done.
func (c *cache) image(ctx context.Context, repository, tag string, l layout) (publish.Inspection, error) {
	key := seen{repository, tag, l.version}
	if image, ok := c.cached(key); ok {
		return image, nil
	}
	read, err, _ := c.reading.Do(fmt.Sprint(key), func() (any, error) {
		image, err := readImage(context.WithoutCancel(ctx), repository, tag, l)
		if err == nil {
			c.keep(key, image)
		}
		return image, err
	})
	return read.(publish.Inspection), err
}

func readImage(ctx context.Context, repository, tag string, l layout) (publish.Inspection, error) {
	ref, err := registry.Layout(repository, tag)
	if err != nil {
		return publish.Inspection{}, err
	}
	return publish.Inspect(ctx, l.store, ref, publish.ReadOptions{
		Selection: publish.Selection{Architecture: architecture(ctx, l.store, tag)}, Retry: registry.Retry{Attempts: 1},
	})
}

func (c *cache) cached(key seen) (publish.Inspection, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.images[key]
	if !ok {
		return publish.Inspection{}, false
	}
	c.used.MoveToFront(element)
	return element.Value.(cached).image, true
}

func (c *cache) keep(key seen, image publish.Inspection) {
	one := cached{key: key, image: image, bytes: 1 << 10}
	for _, content := range image.Files {
		one.bytes += int64(len(content))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.images[key]; ok {
		return
	}
	c.images[key] = c.used.PushFront(one)
	for c.bytes += one.bytes; c.bytes > c.limit; {
		last := c.used.Remove(c.used.Back()).(cached)
		delete(c.images, last.key)
		c.bytes -= last.bytes
	}
}
