package definition

import (
	"encoding/json"
	"reflect"

	"github.com/invopop/jsonschema"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/format"
)

func reflector() *jsonschema.Reflector {
	return &jsonschema.Reflector{
		FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, ExpandedStruct: true,
		DoNotReference: true, Anonymous: true,
	}
}

// InstallSchema is the JSON schema of install.d/NAME.yml, for editors.
func InstallSchema() ([]byte, error) {
	return schemaOf(installType, "install.d/NAME.yml: what the disk is and what gets installed")
}

// CommandsSchema is the JSON schema of commands.d/NAME.yml, for editors.
func CommandsSchema() ([]byte, error) {
	return schemaOf(commandType, "commands.d/NAME.yml: what is run in the image afterwards")
}

// JSONSchemaExtend names the file systems.
func (Partition) JSONSchemaExtend(schema *jsonschema.Schema) {
	if property, ok := schema.Properties.Get("filesystem"); ok {
		for _, name := range filesystem.Names(nil) {
			property.Enum = append(property.Enum, name)
		}
	}
}

// JSONSchemaExtend adds what the tables of firmwares and formats say.
func (InstallFile) JSONSchemaExtend(schema *jsonschema.Schema) {
	for key, names := range map[string][]string{"firmware": arch.Target.FirmwareNames(), "outputs": format.Names()} {
		list, _ := schema.Properties.Get(key)
		for _, name := range names {
			list.Items.Enum = append(list.Items.Enum, name)
		}
	}
	outputs, _ := schema.Properties.Get("outputs")
	outputs.Description += ". Default: " + diskformat.Default
}

func schemaOf(t reflect.Type, title string) ([]byte, error) {
	schema := reflector().ReflectFromType(t)
	schema.Title = title
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}
