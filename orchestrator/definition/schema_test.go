package definition_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

func TestEditorsAreToldEveryFileSystem(t *testing.T) {
	schema, err := definition.InstallSchema()
	if err != nil {
		t.Fatal(err)
	}
	names, err := json.Marshal(filesystem.Names(nil))
	if err != nil {
		t.Fatal(err)
	}
	if plain := strings.Join(strings.Fields(string(schema)), ""); !strings.Contains(plain, `"enum":`+string(names)) {
		t.Errorf("the schema lacks %s", names)
	}
}
