package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/seed"
)

func TestASeedIsServed(t *testing.T) {
	whole, err := seed.Seed{seed.UserData: []byte("#cloud-config\nusers: []\n")}.Complete("web-1")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(seedHandler(whole, io.Discard))
	defer server.Close()
	for path, want := range map[string]int{"/user-data": 200, "/meta-data": 200, "/vendor-data": 404, "/network-config": 404, "/": 404, "//user-data": 404, "/../user-data": 404} {
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != want || want == 200 && string(content) != string(whole[path[1:]]) {
			t.Errorf("%s: %d, %v, %q", path, response.StatusCode, err, content)
		}
	}
	response, err := http.Post(server.URL+"/user-data", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 404 {
		t.Errorf("posted: %d", response.StatusCode)
	}
}
