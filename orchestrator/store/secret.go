package store

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	secretName = "secret"
	secretSize = 32
)

// Secret is random bytes that nobody but the store's owner knows. They are the same as
// long as there is the store.
func (s *Store) Secret() ([]byte, error) {
	secret, err := s.secret()
	return secret, explain("the store's secret", err)
}

func (s *Store) secret() ([]byte, error) {
	path := filepath.Join(s.folder, secretName)
	if secret, err := os.ReadFile(path); len(secret) == secretSize || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // it never fails
	file := filepath.Join(s.work, rand.Text())
	if err := writeNew(file, secret); err != nil {
		return nil, err
	}
	return secret, os.Rename(file, path)
}
