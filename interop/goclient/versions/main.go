// Registers as every version of the client library with a registrar and compares the phantoms of
// its answers with those that the released library selects.
package main

import (
	"bytes"
	crand "crypto/rand"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/refraction-networking/conjure/pkg/core"
	"github.com/refraction-networking/conjure/pkg/phantoms"
	pb "github.com/refraction-networking/conjure/proto"
	"google.golang.org/protobuf/proto"
)

func main() {
	url := flag.String("url", "", "bidirectional endpoint of the registrar")
	file := flag.String("phantoms", "", "phantom file that the registrar reads")
	count := flag.Int("count", 100, "registrations per version, family and generation")
	flag.Parse()
	selector, err := phantoms.SubnetsFromTomlFile(*file)
	if err != nil {
		fmt.Println("go library: phantom file: FAILED:", err)
		os.Exit(1)
	}
	failed := false
	for version := uint32(0); version <= core.CurrentClientLibraryVersion(); version++ {
		for _, v6 := range []bool{false, true} {
			what := fmt.Sprintf("go library 0.9.1: phantoms of client version %d, %s", version, family(v6))
			if n, phantoms, err := compare(selector, *url, version, v6, *count); err != nil {
				fmt.Printf("%s: FAILED: %v\n", what, err)
				failed = true
			} else {
				fmt.Printf("%s, %d registrations, %d with a phantom: ok\n", what, n, phantoms)
			}
		}
	}
	if failed {
		os.Exit(1)
	}
}

func family(v6 bool) string {
	if v6 {
		return "ipv6"
	}
	return "ipv4"
}

// compare makes registrations; how many, and how many of them got a phantom.
func compare(selector *phantoms.PhantomIPSelector, url string, version uint32, v6 bool, count int) (done, found int, err error) {
	for generation := range selector.Networks {
		for range count {
			secret := make([]byte, 32)
			if _, err := crand.Read(secret); err != nil {
				return done, found, err
			}
			keys, err := core.GenSharedKeys(uint(version), secret, pb.TransportType_Min)
			if err != nil {
				return done, found, err
			}
			// Older versions choose a group first, which may have no address of the family.
			var expected net.IP
			if phantom, err := selector.Select(keys.ConjureSeed, generation, uint(version), v6); err == nil {
				expected = *phantom.IP()
			}
			got, err := register(url, secret, version, uint32(generation), v6)
			if err != nil {
				return done, found, err
			}
			if !got.Equal(expected) {
				return done, found, fmt.Errorf("generation %d, secret %x: %v, the library selects %v",
					generation, secret, got, expected)
			}
			done++
			if got != nil {
				found++
			}
		}
	}
	if found == 0 {
		err = fmt.Errorf("no registration got a phantom")
	}
	return done, found, err
}

// register asks the registrar for the phantom of one registration; nil when it has none.
func register(url string, secret []byte, version, generation uint32, v6 bool) (net.IP, error) {
	v4 := !v6
	transport := pb.TransportType_Min
	covert := "198.51.100.2:443"
	message, err := proto.Marshal(&pb.C2SWrapper{
		SharedSecret: secret,
		RegistrationPayload: &pb.ClientToStation{
			ClientLibVersion:    &version,
			DecoyListGeneration: &generation,
			CovertAddress:       &covert,
			Transport:           &transport,
			V4Support:           &v4,
			V6Support:           &v6,
		},
	})
	if err != nil {
		return nil, err
	}
	answer, err := http.Post(url, "application/x-protobuf", bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	switch {
	case answer.StatusCode == http.StatusInternalServerError,
		answer.StatusCode == http.StatusBadRequest && string(body) == "bad seed\n":
		return nil, nil
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("status %d: %s", answer.StatusCode, body)
	}
	response := &pb.RegistrationResponse{}
	if err := proto.Unmarshal(body, response); err != nil {
		return nil, err
	}
	if v6 {
		return net.IP(response.GetIpv6Addr()), nil
	}
	if response.Ipv4Addr == nil {
		return nil, nil
	}
	return net.IP(binary.BigEndian.AppendUint32(nil, response.GetIpv4Addr())), nil
}
