// Reads compose files as Compose v2 does, with the loader of Compose itself, and says what no shipped
// file may have: a privileged service, or kernel settings of the network beside the host's network.
//
//	compose FILE [FILE…]
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	failed := false
	for _, list := range os.Args[1:] {
		files := strings.Split(list, "+")
		name := strings.ReplaceAll(list, "+", " with ")
		problems := check(files)
		if len(problems) == 0 {
			fmt.Printf("compose-go v2: %s: ok\n", name)
			continue
		}
		failed = true
		fmt.Printf("compose-go v2: %s: FAILED: %s\n", name, strings.Join(problems, "; "))
	}
	if failed {
		os.Exit(1)
	}
}

func check(files []string) []string {
	options, err := cli.NewProjectOptions(files, cli.WithProfiles([]string{"*"}), cli.WithName("conjure"))
	if err != nil {
		return []string{err.Error()}
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	for name, service := range project.Services {
		if service.Privileged {
			problems = append(problems, name+" is privileged")
		}
		if service.NetworkMode == "host" && len(service.Sysctls) > 0 {
			problems = append(problems, name+" sets sysctls in the network of the host")
		}
		if service.HealthCheck == nil && name != "caddy" {
			problems = append(problems, name+" has no health check")
		}
		for _, volume := range service.Volumes {
			if strings.HasPrefix(volume.Source, "/dev/net") {
				problems = append(problems, name+" mounts a device as a volume")
			}
		}
	}
	if len(project.Services) == 0 {
		problems = append(problems, "no service")
	}
	return problems
}
