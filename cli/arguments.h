// What the user asked for, read from the command line.  CLI11 stays in arguments.cc.
#ifndef COFFER_CLI_ARGUMENTS_H
#define COFFER_CLI_ARGUMENTS_H

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "coffer/base/result.h"
#include "coffer/base/secret_bytes.h"

namespace coffer::cli {

// A value that stood in argv.  It is taken out, and its place overwritten, before anything else sees it.
struct TakenValue {
  int position = 0;  // of the argument, counted from 1 as the user sees it
  SecretBytes value;
};

struct Arguments {
  std::string command;  // "secrets set"

  // Every command
  std::string app, config, engine;
  bool json = false, quiet = false, no_color = false, verbose = false;

  // One or several of them; empty where the command has no such option
  std::vector<std::string> words;  // NAME ..., ID, IMAGE, FILE: what stands without a dash
  std::vector<std::string> tail;   // behind "--"
  std::vector<TakenValue> values;  // of `secrets set`; words hold "NAME=#index" for them
  std::vector<std::string> from_file, env, env_files, files, only, ports, mounts, cap_drop;
  std::string storage, runtime, kms_passphrase_file, keys_socket, api_url, agent_url, identity, name, process,
      user, state, to, service;
  // Of `machine run`: whether they were given counts, too.
  std::optional<std::string> restart, entrypoint, network, memory, stop_signal, stop_timeout;
  std::optional<std::string> image;    // of `deploy`
  bool resume = false, abort = false;  // of `deploy`
  bool failed = false;                 // of `machine logs`
  // Of `token`: given as nothing, they must not pass for not given.
  std::optional<std::string> token_apps, token_allow, token_expires;
  bool stage = false, detach = false, dotenv = false, yes = false, force = false, follow = false,
       pull = false, read_only = false;
  bool now = false;                                     // of `keys rotate`
  bool once = false, user_unit = false, print = false;  // of `agent`
  uint64_t lines = 0, timeout_s = 0;
};

// The only word, a number from 1; 0: it is not there.
Result<uint64_t> number_argument(const Arguments &, std::string_view of, std::string remedy);

// Takes the values of `secrets set` out of argv.  Called first of all.
std::vector<TakenValue> take_values(int argc, char **argv);

// Either what to do, or how the program ends at once: help, version, or wrong usage.
struct Exit {
  int code;
};
std::variant<Arguments, Exit> parse(int argc, char **argv, std::vector<TakenValue> values);

}  // namespace coffer::cli
#endif
