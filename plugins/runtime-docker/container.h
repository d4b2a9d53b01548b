// container.h - what a Machine is in the engine's terms: the request that creates its container, and what an
// inspection of it says.  No I/O.
#ifndef COFFER_RUNTIME_DOCKER_CONTAINER_H
#define COFFER_RUNTIME_DOCKER_CONTAINER_H
#include <optional>
#include <string>
#include <vector>

#include "deliveries.h"
#include "engine.h"

namespace coffer::runtime_docker {

// Where coffer-init is in every container, and the labels that the plugin puts beside those of its host.
inline constexpr char kInitPath[] = "/.coffer/init";
inline constexpr char kInstanceLabel[] = "coffer.runtime.instance", kNameLabel[] = "coffer.runtime.name",
                      kPlacesLabel[] = "coffer.runtime.places", kSpecLabel[] = "coffer.runtime.spec";

// What was announced at create, as it stands in the container's label.
std::string encode(const runtime::Places &);
runtime::Places decode_places(const std::string &);
// Does this file go with its folder, or is it mounted alone?
bool in_folder(const runtime::Places &, const std::string &file);

// What the engine says of an image (GET /images/X/json).
struct Image {
  std::string id, architecture, user, workdir;
  std::vector<std::string> entrypoint, command, digests /* REPO@sha256:... */, volumes;
  Json config;
};
Image read_image(const Json &);

// The body of POST /containers/create.  `file_paths`, `folder_paths`: where the files and folders of `places`
// lie on the host.
struct Request {
  std::string container_name;
  std::string body;  // JSON
};
Request create_request(const coffer_machine_spec &, const Image &, const runtime::Places &,
                       const std::string &init, const std::vector<std::string> &file_paths,
                       const std::vector<std::string> &folder_paths);

// An inspected container (GET /containers/X/json).
struct Container {
  explicit Container(const Json &);
  std::string id, instance, name, places, spec, user, image, status, error, stop_signal;
  std::vector<std::pair<std::string, std::string>> labels;
  std::vector<std::string> command;  // with its arguments, as the app was to be started
  int pid = 0, exit_code = 0, stop_timeout_s = 10;
  bool out_of_memory = false;
  int64_t created_ns = 0, started_ns = 0, finished_ns = 0;

  bool running() const { return status == "running" || status == "paused" || status == "restarting"; }
  bool never_started() const { return status == "created" && error.empty(); }
};

// Nanoseconds since 1970 of an RFC 3339 time with up to nine decimals, in UTC; 0 when it is none or year 1.
int64_t parse_time(std::string_view);

// "docker 1 INSTANCE CONTAINER"
struct Handle {
  std::string instance, container;
  std::string encode() const;
  static Handle decode(std::string_view);  // throws INVALID_ARGUMENT
};

}  // namespace coffer::runtime_docker
#endif
