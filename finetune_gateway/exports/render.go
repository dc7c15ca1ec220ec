// Render conversations by a template as Ollama does, with Go's text/template. Reads JSON from stdin:
// {"template": "...", "conversations": [[{"role": "user", "content": "..."}]]}; writes a JSON list.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

func main() {
	var asked struct {
		Template      string       `json:"template"`
		Conversations [][]*Message `json:"conversations"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	parsed := template.Must(template.New("").Option("missingkey=zero").Parse(asked.Template))
	made := []string{}
	for _, messages := range asked.Conversations {
		var system []string
		for _, message := range messages {
			if message.Role == "system" {
				system = append(system, message.Content)
			}
		}
		var text strings.Builder
		values := map[string]any{"System": strings.Join(system, "\n\n"), "Messages": messages, "Response": ""}
		if err := parsed.Execute(&text, values); err != nil {
			panic(err)
		}
		made = append(made, text.String())
	}
	if err := json.NewEncoder(os.Stdout).Encode(made); err != nil {
		panic(err)
	}
}
