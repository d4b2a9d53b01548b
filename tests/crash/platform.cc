#include "platform.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>

namespace coffer::tests {
namespace {

namespace fs = std::filesystem;

using Names = std::set<std::string>;

Names names_in(const fs::path &folder) {
  Names out;
  std::error_code none;
  for (const auto &entry : fs::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename();
    if (name[0] != '.') out.insert(name);
  }
  return out;
}

std::string listed(const Names &names) {
  std::string out;
  for (const std::string &n : names) out += " " + n;
  return out.empty() ? " none" : out;
}

void same(const std::string &what, const Names &there, const Names &wanted) {
  if (there != wanted) throw Broken{what + ":" + listed(there) + "; expected:" + listed(wanted)};
}

class ProcessPlatform : public Platform {
 public:
  explicit ProcessPlatform(const fs::path &home) : machines_(home / "machines") {}
  std::string name() const override { return "runtime-process"; }
  Argv init() const override { return {}; }
  Argv app(const std::string &marker, int delay_ms) const override {
    return {"host",  "--",   fs::read_symlink("/proc/self/exe").string(),
            "--app", marker, std::to_string(delay_ms)};
  }
  void check(const Names &instances, size_t started) const override {
    if (const size_t n = supervisors_below(machines_).size(); n != started)
      throw Broken{std::to_string(started) + " Machines are started, and " + std::to_string(n) +
                   " supervisors run"};
    same("Machine folders", names_in(machines_), instances);
  }
  void clean_up() noexcept override {
    for (const pid_t pid : supervisors_below(machines_)) ::kill(pid, SIGKILL);
  }

 private:
  const fs::path machines_;
};

class DockerPlatform : public Platform {
 public:
  DockerPlatform(const fs::path &home, std::string image, std::string marker)
      : home_(home),
        image_(std::move(image)),
        marker_(std::move(marker)),
        files_("/dev/shm/coffer-" + marker_) {}
  std::string name() const override { return "runtime-docker"; }
  Argv init() const override { return {"--runtime", "docker"}; }

  // A folder of file secrets that no other test looks into.
  void set_up() override {
    const fs::path file = home_ / "engine.toml";
    std::string text = read_all(file);
    const std::string line = "plugin = \"runtime-docker\"";
    const size_t at = text.find(line);
    if (at == std::string::npos) throw Broken{"engine.toml does not name runtime-docker"};
    text.insert(at + line.size(), "\nfiles = \"" + files_.string() + "\"");
    write_all(file, text);
    fs::create_directory(files_);
  }

  Argv app(const std::string &marker, int delay_ms) const override {
    return {"--file", file() + "=S_FILE", image_, "--", "sleep", std::to_string(delay_ms), marker};
  }
  std::string file() const override { return "/run/secrets/file"; }

  void check(const Names &instances, size_t started) const override {
    Names there, running;
    for (const auto &[instance, state] : containers()) {
      if (!there.insert(instance).second) throw Broken{"instance " + instance + " has two containers"};
      if (state == "running") running.insert(instance);
    }
    same("containers", there, instances);
    if (running.size() != started)
      throw Broken{std::to_string(started) + " Machines are started, and" + listed(running) + " run"};
    Names folders;
    for (const std::string &engine : names_in(files_)) folders.merge(names_in(files_ / engine));
    // A stopped instance is never started again.
    same("folders of file secrets", folders, running);
    // An instance that was never started has no note.
    Names notes = names_in(home_ / "machines");
    for (const std::string &instance : instances) notes.erase(instance);
    same("notes of other instances", notes, {});
  }

  void clean_up() noexcept override {
    try {
      Argv remove = {"/usr/bin/docker", "rm", "-f", "-v"};
      for (const std::string &id : lines(docker({"ps", "-aq", "--no-trunc", "--filter", "label=" + kLabel})))
        if (docker({"inspect", "-f", "{{.Config.Cmd}}", id}).find(marker_) != std::string::npos)
          remove.push_back(id);
      if (remove.size() > 4) tests::run(remove, environment());
      std::error_code ignored;
      fs::remove_all(files_, ignored);
    } catch (...) {  // the engine may be gone
    }
  }

 private:
  static inline const std::string kLabel = "coffer.runtime.instance";
  static std::vector<std::string> environment() {
    const char *host = std::getenv("DOCKER_HOST");
    return {std::string("DOCKER_HOST=") + (host ? host : "unix:///var/run/docker.sock"), "PATH=/usr/bin:/bin",
            "HOME=/nonexistent"};
  }
  static std::string docker(Argv words) {
    words.insert(words.begin(), "/usr/bin/docker");
    const Outcome o = tests::run(words, environment());
    if (o.code != 0) throw Broken{"docker " + words[1] + ": " + o.err};
    return o.out;
  }
  static std::vector<std::string> lines(const std::string &text) {
    std::vector<std::string> out;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) out.push_back(line);
    return out;
  }
  // Of this campaign: instance and state.
  std::vector<std::pair<std::string, std::string>> containers() const {
    std::vector<std::pair<std::string, std::string>> out;
    for (const std::string &line :
         lines(docker({"ps", "-a", "--no-trunc", "--filter", "label=" + kLabel, "--format",
                       "{{.Label \"" + kLabel + "\"}} {{.State}} {{.Command}}"}))) {
      if (line.find(marker_) == std::string::npos) continue;
      std::istringstream in(line);
      std::pair<std::string, std::string> c;
      in >> c.first >> c.second;
      out.push_back(std::move(c));
    }
    return out;
  }

  const fs::path home_;
  const std::string image_, marker_;
  const fs::path files_;
};

}  // namespace

std::unique_ptr<Platform> process_platform(const fs::path &home) {
  return std::make_unique<ProcessPlatform>(home);
}
std::unique_ptr<Platform> docker_platform(const fs::path &home, const std::string &image,
                                          const std::string &marker) {
  return std::make_unique<DockerPlatform>(home, image, marker);
}

}  // namespace coffer::tests
