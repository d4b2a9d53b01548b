// images.h - finds and pulls images.
#ifndef COFFER_RUNTIME_DOCKER_IMAGES_H
#define COFFER_RUNTIME_DOCKER_IMAGES_H
#include "container.h"

namespace coffer::runtime_docker {

// Throws NOT_FOUND with the remedy, and FAILED_PRECONDITION when it is built for another processor.
Image find_image(Engine &, const sdk::Call &, const std::string &reference);

// Pulls it with the credentials that `docker login` keeps in `docker_config` (config.json, or none).
void pull_image(Engine &, const sdk::Call &, const std::string &reference, const std::string &docker_config,
                const sdk::Lines &);

// REPO@sha256:... of the repository that the reference names, so that another host finds it too; else the
// image's id.
std::string immutable_reference(const Image &, const std::string &reference);

// "registry.example:5000/team/app:1.2@sha256:..." in its parts.
struct Reference {
  std::string registry;    // as `docker login` knows it; Docker Hub's address where none is named
  std::string repository;  // as it was written, with the registry
  std::string tag;         // "latest" where neither tag nor digest is given
  std::string digest;
};
Reference parse_reference(const std::string &);

}  // namespace coffer::runtime_docker
#endif
