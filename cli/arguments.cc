#include "arguments.h"

#include <charconv>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstring>
#include <iostream>
#include <map>

#include "coffer/tokens/macaroon.h"
#include "output.h"

namespace coffer::cli {
namespace {

constexpr std::string_view kVersion = "coffer " COFFER_VERSION;

// Options that take a value, so that the value is not mistaken for a word of the command.
bool takes_value(std::string_view option) {
  for (const std::string_view known : {"--app", "--config", "--engine", "--from-file"})
    if (option == known) return true;
  if (option.starts_with("--")) return false;
  // Flags of one letter may stand together, the last one with a value: -ja NAME.
  const size_t at = option.find_first_not_of("jqh", 1);
  return at != option.npos && at + 1 == option.size() && (option[at] == 'a' || option[at] == 'c');
}

std::string example(std::string_view text) { return "Examples:\n" + std::string(text); }

}  // namespace

std::vector<TakenValue> take_values(int argc, char **argv) {
  std::vector<TakenValue> out;
  int words = 0;  // 1: after "secrets", 2: after "secrets set"
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--") break;
    if (argument.starts_with('-') && argument != "-") {
      // "--app=x" carries its own value; "--anything=x" is refused later, without being repeated.
      if (takes_value(argument)) ++i;
      continue;
    }
    if (words < 2) {
      if (argument != (words == 0 ? "secrets" : "set")) return out;
      ++words;
      continue;
    }
    char *equals = std::strchr(argv[i], '=');
    if (!equals || std::string_view(equals + 1) == "-") continue;
    char *value = equals + 1;
    const size_t size = std::strlen(value);
    TakenValue taken{i, SecretBytes::copy_of(as_bytes({value, size}))};
    secure_wipe(value, size);
    out.push_back(std::move(taken));
  }
  return out;
}

std::variant<Arguments, Exit> parse(int argc, char **argv, std::vector<TakenValue> values) {
  Arguments a;
  CLI::App app("Self-hosted app secrets: seal them once, and only your Machines can open them.", "coffer");
  app.set_version_flag("--version", std::string(kVersion));
  app.require_subcommand(1);
  app.fallthrough();
  app.get_formatter()->column_width(34);
  app.add_option("-a,--app", a.app, "App name (else COFFER_APP, else `app` in the App config)")
      ->type_name("NAME");
  app.add_option("-c,--config", a.config, "App config (default: coffer.toml, then fly.toml)")
      ->type_name("FILE");
  app.add_option("--engine", a.engine, "engine config (default: $COFFER_HOME/engine.toml, ...)")
      ->type_name("FILE");
  app.add_flag("-j,--json", a.json, "print one JSON document");
  app.add_flag("-q,--quiet", a.quiet, "no progress");
  app.add_flag("--no-color", a.no_color, "no colours");
  app.add_flag("--verbose", a.verbose, "say what is done, on stderr");
  app.footer(
      example("  coffer init                                  set up this host\n"
              "  coffer apps create web\n"
              "  coffer secrets set -a web DATABASE_URL=postgres://...\n"
              "  coffer machine run -a web host -- ./server\n"
              "  coffer secrets list -a web\n"
              "\nEach command has --help with examples of its own."));

  std::map<const CLI::App *, std::string> commands;
  const auto group = [&](const char *name, const char *what) {
    CLI::App *g = app.add_subcommand(name, what);
    g->require_subcommand(1);
    g->fallthrough();
    return g;
  };
  const auto command = [&](CLI::App *in, const char *name, const char *what, std::string_view examples) {
    CLI::App *c = in->add_subcommand(name, what);
    c->fallthrough();
    c->footer(example(examples));
    commands[c] = in == &app ? name : in->get_name() + " " + name;
    return c;
  };
  const auto words = [&](CLI::App *c, const char *name, const char *what, int least, int most) {
    c->add_option(name, a.words, what)->expected(least, most)->required(least > 0)->type_name("");
  };
  constexpr int kMany = 1 << 20;
  // Set also when it was given as nothing, which CLI11 takes for not given.
  const auto one_text = [](CLI::App *c, const char *name, std::optional<std::string> &to, const char *what,
                           const char *type) {
    c->add_option_function<std::string>(
         name, [&to](const std::string &text) { to = text; }, what)
        ->type_name(type);
  };
  // May be given again and again, one value each time.
  const auto many = [](CLI::App *c, const char *name, std::vector<std::string> &to, const char *what,
                       const char *type) {
    c->add_option(name, to, what)->type_name(type)->expected(1)->allow_extra_args(false)->take_all();
  };

  CLI::App *c = command(&app, "init", "set up vault, keys and host on this computer",
                        "  coffer init\n  coffer init --storage file\n  coffer init --runtime docker\n"
                        "  coffer init --kms-passphrase-file ~/.coffer-passphrase\n"
                        "  coffer init --keys /run/coffer-keys/keys.sock --identity 5f1c...\n"
                        "  coffer init --api unix:///run/coffer-api/api.sock --identity 5f1c...");
  c->add_option("--storage", a.storage, "sqlite (default) or file")->type_name("KIND");
  c->add_option("--runtime", a.runtime, "process (default) or docker")->type_name("KIND");
  c->add_option("--kms-passphrase-file", a.kms_passphrase_file, "protect the keys with this passphrase")
      ->type_name("FILE");
  c->add_option("--keys", a.keys_socket, "a key service of its own listens there (coffer-keys --help)")
      ->type_name("SOCKET");
  c->add_option("--api", a.api_url, "no vault here: an API of its own has it (unix://, http://, https://)")
      ->type_name("URL");
  c->add_option("--agent", a.agent_url,
                "a host whose coffer-agent dials that API; without --keys, also for its keys")
      ->type_name("URL");
  c->add_option("--identity", a.identity, "of the key service, as `coffer-keys --init` prints it")
      ->type_name("HEX");
  command(&app, "doctor", "check every plugin, file and key; say what to do",
          "  coffer doctor\n  coffer doctor -j");

  CLI::App *apps = group("apps", "create, list, destroy Apps");
  words(command(apps, "create", "create an App", "  coffer apps create web"), "NAME", "a-z, 0-9 and -", 1, 1);
  command(apps, "list", "list Apps", "  coffer apps list\n  coffer apps list -j");
  c = command(apps, "destroy", "destroy an App, its secrets and its Machines",
              "  coffer apps destroy web -y");
  words(c, "NAME", "", 1, 1);
  c->add_flag("-y,--yes", a.yes, "do not ask");

  CLI::App *secrets = group("secrets", "set, list, deploy an App's secrets");
  const auto staging = [&](CLI::App *to) {
    to->add_flag("--stage", a.stage, "do not restart Machines now");
    to->add_flag("--detach", a.detach, "without smoke time and checks");
  };
  c = command(secrets, "set", "set secrets and restart the App's Machines with them",
              "  coffer secrets set -a web DATABASE_URL=postgres://... API_KEY=...\n"
              "  coffer secrets set -a web TLS_KEY=- < key.pem       exact bytes of stdin\n"
              "  coffer secrets set -a web API_KEY                   asks, without echo\n"
              "  coffer secrets set -a web --from-file CERT=cert.pem exact bytes of a file\n"
              "  coffer secrets set -a web --stage NEXT_KEY=...      with the next deploy");
  words(c, "NAME=VALUE", "NAME=VALUE, NAME=- (stdin), or NAME alone (asks)", 0, kMany);
  many(c, "--from-file", a.from_file, "NAME=PATH: exact bytes of a file", "NAME=PATH");
  staging(c);
  c = command(secrets, "import", "set secrets from a dotenv file or stdin",
              "  coffer secrets import -a web .env\n  coffer secrets import -a web --stage < .env");
  words(c, "FILE", "dotenv file (default: stdin)", 0, 1);
  c->add_flag("--dotenv", a.dotenv, "\\n \\t \\\" \\\\ are escapes inside double quotes");
  staging(c);
  c = command(secrets, "unset", "remove secrets and restart the App's Machines without them",
              "  coffer secrets unset -a web OLD_KEY\n  coffer secrets unset -a web --stage A B C");
  words(c, "NAME", "secrets to remove", 1, kMany);
  staging(c);
  command(secrets, "list", "names, digests and status; never a value",
          "  coffer secrets list -a web\n  coffer secrets list -a web -j");
  command(secrets, "plan", "what a deploy would add, change, remove and restart; opens nothing",
          "  coffer secrets plan -a web");
  c = command(secrets, "history", "which version set or removed what, and by whom; opens nothing",
              "  coffer secrets history -a web\n  coffer secrets history -a web DATABASE_URL");
  words(c, "NAME", "only versions that have changed this secret", 0, 1);
  c = command(secrets, "rollback", "the secrets of an older version once more; opens nothing",
              "  coffer secrets rollback -a web          the version before\n"
              "  coffer secrets rollback -a web 12 --stage");
  words(c, "VERSION", "of `coffer secrets history` (default: the one before the newest)", 0, 1);
  staging(c);
  c = command(secrets, "purge", "forget the older values of a secret, and the versions that had them",
              "  coffer secrets purge -a web LEAKED_KEY");
  words(c, "NAME", "a secret that has, or had, a value that must not come back", 1, 1);
  c = command(secrets, "deploy", "restart the App's Machines with the staged secrets",
              "  coffer secrets deploy -a web");
  c->add_flag("--detach", a.detach, "without smoke time and checks");

  c = command(&app, "deploy", "bring the App config, and the newest secrets, to the App's Machines",
              "  coffer deploy\n  coffer deploy --image web:42\n  coffer deploy --abort");
  one_text(c, "--image", a.image, "instead of the App config's [build] image", "IMAGE");
  c->add_flag("--pull", a.pull, "ask the registry, also when the image is here");
  c->add_flag("--detach", a.detach, "without smoke time and checks");
  c->add_flag("--resume", a.resume, "go on with a roll-out that was cut off");
  c->add_flag("--abort", a.abort, "undo a roll-out that was cut off");

  CLI::App *releases = group("releases", "what was rolled out, and the way back");
  command(releases, "list", "releases, the newest first", "  coffer releases list -a web");
  c = command(
      releases, "rollback", "deploy the App config of an earlier release; secrets stay as they are",
      "  coffer releases rollback -a web         the one before\n  coffer releases rollback -a web 12");
  words(c, "N", "number of the release", 0, 1);
  c->add_flag("--detach", a.detach, "without smoke time and checks");

  CLI::App *machine = group("machine", "run and manage Machines");
  c = command(
      machine, "run", "create a Machine and start it",
      "  coffer machine run -a web host -- ./server --port 8080\n"
      "  coffer machine run -a web /usr/local/bin/worker -- --queue mail\n"
      "  coffer machine run -a web host --file /run/secrets/tls.key=TLS_KEY -- nginx -g 'daemon off;'\n"
      "  coffer machine run -a web nginx:1.27 -p 8080:80 -v data:/var/lib/nginx");
  words(c, "IMAGE", "image reference, `host`, or path of an executable (else [build] image)", 0, 1);
  c->add_option("--name", a.name, "name of the Machine")->type_name("NAME");
  many(c, "-e,--env", a.env, "plain variable, not secret", "K=V");
  many(c, "--env-file", a.env_files, "file of plain variables", "FILE");
  many(c, "--file", a.files, "GUEST_PATH=SECRET[:MODE]: a secret as a file", "PATH=SECRET");
  many(c, "-p,--publish", a.ports, "[[IP:]HOST:]PORT[/udp]: a port on the host", "PORT");
  many(c, "-v,--volume", a.mounts, "SRC:DST[:ro]: a volume, or a folder of the host", "SRC:DST");
  c->add_option("--process", a.process, "command of [processes] in the App config")->type_name("NAME");
  c->add_option("--user", a.user, "run as this user")->type_name("USER");
  one_text(c, "--restart", a.restart, "no, on-failure (default) or always", "POLICY");
  one_text(c, "--entrypoint", a.entrypoint, "instead of the image's: one argument, split into words", "E");
  c->add_flag("--pull", a.pull, "ask the registry, also when the image is here");
  one_text(c, "--network", a.network, "network of the platform", "N");
  c->add_flag("--read-only", a.read_only, "the root file system cannot be written");
  many(c, "--cap-drop", a.cap_drop, "capability that the app lacks, or ALL", "CAP");
  one_text(c, "--memory", a.memory, "most memory: bytes, or with k, m or g", "M");
  one_text(c, "--stop-signal", a.stop_signal, "signal that ends it (default: the image's, else SIGTERM)",
           "S");
  one_text(c, "--stop-timeout", a.stop_timeout, "seconds until it is killed (default: 10)", "S");
  command(machine, "list", "list the App's Machines",
          "  coffer machine list -a web\n  coffer machine list -a web -j");
  const auto one = [&](const char *name, const char *what, std::string_view examples) {
    CLI::App *m = command(machine, name, what, examples);
    words(m, "ID", "id or name of the Machine", 1, 1);
    return m;
  };
  one("status", "everything about one Machine", "  coffer machine status -a web web-1");
  one("start", "start it with the newest secrets", "  coffer machine start -a web web-1");
  one("stop", "stop it; it stays stopped", "  coffer machine stop -a web web-1");
  one("restart", "boot it anew with the newest secrets", "  coffer machine restart -a web web-1");
  one("destroy", "remove it and end its access to secrets",
      "  coffer machine destroy -a web web-1\n  coffer machine destroy -a web web-1 --force")
      ->add_flag("--force", a.force, "also when it is started");
  c = one("logs", "what the app wrote",
          "  coffer machine logs -a web web-1\n  coffer machine logs -a web web-1 -f");
  c->add_flag("-f,--follow", a.follow, "go on until interrupted");
  c->add_option("-n,--lines", a.lines, "only the last N lines")->type_name("N");
  c->add_flag("--failed", a.failed, "of the last instance that a roll-out gave up, until the next boot");
  one("exec", "run a command inside, with the app's environment",
      "  coffer machine exec -a web web-1 -- sh -c 'echo $DATABASE_URL | wc -c'");
  c = one("wait", "wait for a state", "  coffer machine wait -a web web-1 --state stopped --timeout 60");
  c->add_option("--state", a.state, "started, stopped, failed or destroyed")->type_name("STATE")->required();
  c->add_option("--timeout", a.timeout_s, "seconds (default: no limit)")->type_name("S");

  c = command(&app, "run", "run a local command with the App's secrets in its environment",
              "  coffer run -a web -- ./migrate\n  coffer run -a web --only DATABASE_URL -- psql");
  c->add_option("--only", a.only, "only these secrets")->type_name("NAME,...")->delimiter(',');

  CLI::App *agent = command(&app, "agent", "watch this host's Machines and restart them, until it is stopped",
                            "  coffer agent\n  coffer agent --once\n  coffer agent install");
  agent->add_flag("--once", a.once, "look at everything once, then end");
  c = command(agent, "install", "write a systemd unit that runs it",
              "  sudo coffer agent install\n  coffer agent install --user\n  coffer agent install --print");
  c->add_flag("--user", a.user_unit, "for the calling user's own systemd");
  c->add_flag("--print", a.print, "write it to standard output instead");
  c->add_flag("--force", a.force, "also over a different unit");

  CLI::App *plugin = group("plugin", "what serves this engine");
  command(plugin, "list", "plugins of the engine config and of the plugin folder", "  coffer plugin list");
  words(command(plugin, "info", "what a plugin is and which options it has",
                "  coffer plugin info storage-sqlite"),
        "NAME|PATH", "", 1, 1);

  CLI::App *vault = group("vault", "check, move, back up and restore the vault");
  command(vault, "check", "read and verify everything, change nothing", "  coffer vault check");
  c = command(vault, "migrate", "move the vault to another storage backend, without opening a value",
              "  coffer vault migrate --to $COFFER_HOME/file.toml");
  c->add_option("--to", a.to, "engine config that names the new storage")
      ->type_name("ENGINE_FILE")
      ->required();

  c = command(
      vault, "backup", "one sealed file: the vault and the keys to it, but not the KMS's",
      "  coffer vault backup /mnt/backup/coffer-$(date +%F)\n"
      "  coffer vault backup --force coffer.backup        in place of an older one\n"
      "\nOnly the same KMS key opens it again: keep a copy of that apart (kms-local: the folder kms).");
  words(c, "FILE", "the file to make", 1, 1);
  c->add_flag("--force", a.force, "also over a file that is there");
  c = command(vault, "restore", "put a backup in place of an empty or broken vault",
              "  coffer init && coffer vault restore coffer.backup    a new home, with the old KMS key\n"
              "  coffer vault restore --force coffer.backup           in place of what is there\n"
              "\nThe Machines of this host are ended; start them again with `coffer machine start`.");
  words(c, "FILE", "the backup", 1, 1);
  c->add_flag("--force", a.force, "also over a home that has Apps, and end its Machines");

  CLI::App *keys = group("keys", "Apps' keys and the key service's own");
  command(keys, "list", "keys, epochs and public halves; never a private key",
          "  coffer keys list\n  coffer keys list -j");
  c = command(keys, "rotate", "a new key pair for an App, and its secrets sealed for it",
              "  coffer keys rotate -a web\n"
              "  coffer keys rotate -a web --now                  the old key is gone when it returns\n"
              "  coffer keys rotate                               every App, where none is named");
  c->add_flag("--now", a.now, "drop older versions and restart the Machines, so that the old key can go");

  command(keys, "rewrap", "a new root key, under which all keys are wrapped anew", "  coffer keys rewrap");

  CLI::App *host = group("host", "hosts that may be granted Machines: enroll, join, list, revoke");
  words(command(host, "enroll", "print a one-time token with which a new host joins; for the administrator",
                "  coffer host enroll alpha\n  coffer host enroll alpha -q > token"),
        "NAME", "what the host will be called", 1, 1);
  words(command(host, "join", "enrol this host, with the token on standard input",
                "  coffer host join alpha < token"),
        "NAME", "the name that the token was made for", 1, 1);
  command(host, "list", "enrolled and revoked hosts", "  coffer host list\n  coffer host list -j");
  words(command(host, "revoke", "its grants are void and it gets no new one; for the administrator",
                "  coffer host revoke alpha"),
        "HOST", "name, or key as in `coffer host list`", 1, 1);

  CLI::App *token = group("token", "user tokens: make, narrow, list, revoke");
  const auto limits = [&](CLI::App *to) {
    // In place of the option of every command, because here it may name several.
    to->add_option_function<std::vector<std::string>>(
          "-a,--app",
          [&a](const std::vector<std::string> &given) {
            for (const std::string &names : given)
              a.token_apps = a.token_apps ? *a.token_apps + "," + names : names;
          },
          "only these Apps; may be repeated")
        ->type_name("NAME,...")
        ->expected(1)
        ->allow_extra_args(false)
        ->take_all();
    one_text(to, "--allow", a.token_allow,
             "only these: list, set, deploy, machine, exec, run, keys, token, audit, admin", "WORD,...");
    one_text(to, "--expires", a.token_expires, "30d, 12h, 15m, 60s, or a time: 2027-01-01T00:00:00Z", "WHEN");
  };
  c = command(token, "create", "make a token and print it, this one time",
              "  coffer token create --name ci --app web --allow list,set,deploy --expires 30d\n"
              "  coffer token create --app web --app api --allow list > token");
  c->add_option("--name", a.name, "to find it again (default: one is made up)")->type_name("NAME");
  limits(c);
  limits(command(token, "narrow", "make a lesser token of the one on stdin or in COFFER_TOKEN; asks nobody",
                 "  coffer token narrow --allow list --expires 1h < token\n"
                 "  COFFER_TOKEN=... coffer token narrow --app web </dev/null"));
  command(token, "check", "what the token on stdin or in COFFER_TOKEN may do, and whether it is valid",
          "  coffer token check < token\n  coffer token check -j < token");
  command(token, "list", "tokens that were made and not revoked; never a token itself",
          "  coffer token list\n  coffer token list -j");
  words(command(token, "revoke", "end a token, and all that were narrowed from it",
                "  coffer token revoke ci\n  coffer token revoke 1b0f4f6c5f0e4c5ea0f1d9a3c7e8b2d4"),
        "ID|NAME", "see `coffer token list`", 1, 1);

  CLI::App *audit = group("audit", "what was done and refused, by whom");
  c = command(audit, "log", "entries of the audit logs; names, never a value",
              "  coffer audit log -n 20\n  coffer audit log -a web\n  coffer audit log --service keys -j");
  c->add_option("--service", a.service, "only of this one: api or keys")->type_name("NAME");
  c->add_option("-n,--lines", a.lines, "only the last N entries")->type_name("N");
  command(audit, "verify", "find entries that were changed, moved, removed or cut off",
          "  coffer audit verify\n  coffer audit verify -j");

  // What stands behind "--" is the command of a Machine and none of our business.
  int ours = argc;
  for (int i = 1; i < argc; ++i)
    if (std::string_view(argv[i]) == "--") {
      ours = i;
      a.tail.assign(argv + i + 1, argv + argc);
      break;
    }
  std::vector<std::string> arguments;
  size_t taken = 0;
  for (int i = 1; i < ours; ++i) {
    std::string text = argv[i];
    if (taken < values.size() && values[taken].position == i) text += "#" + std::to_string(taken++);
    arguments.push_back(std::move(text));
  }
  // Whoever looks at processes sees arguments, and shells keep them.
  for (size_t i = 0; i < arguments.size(); ++i)
    if (looks_like_token(arguments[i])) {
      print_error(
          {ErrorCode::kInvalidArgument,
           "argument " + std::to_string(i + 1) + " is a token, and arguments are seen by others",
           "Give it on standard input or in COFFER_TOKEN, and revoke this one if it was still good."});
      return Exit{2};
    }
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // CLI11 takes them from the back
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp &) {
    const CLI::App *asked = &app;
    while (!asked->get_subcommands().empty()) asked = asked->get_subcommands().front();
    std::cout << asked->help("", CLI::AppFormatMode::Normal);
    return Exit{0};
  } catch (const CLI::CallForVersion &) {
    std::cout << kVersion << "\n";
    return Exit{0};
  } catch (const CLI::ParseError &e) {
    // CLI11's texts repeat arguments, and an argument may be a value: only its kind is told.
    const CLI::App *asked = &app;
    while (!asked->get_subcommands().empty()) asked = asked->get_subcommands().front();
    std::string what = "wrong usage";
    const std::string kind = e.get_name();
    // CLI11 names this one after the command.
    const bool extras = e.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError);
    if (kind == "RequiredError")
      what = commands.contains(asked) ? "something required is missing" : "a command is missing";
    else if (extras || kind == "ArgumentMismatch") {
      what = "unexpected argument";
      for (size_t i = 0; i < arguments.size(); ++i)
        if (const std::string &x = arguments[i]; x.starts_with("-") && x.size() > 1) {
          // An option's name may be told, what is behind = may not.
          const std::string option = x.substr(0, x.find('='));
          if (!asked->get_option_no_throw(option) && !app.get_option_no_throw(option)) {
            what = "argument " + std::to_string(i + 1) + " is an unknown option";
            break;
          }
        }
    } else if (kind == "ConversionError" || kind == "ValidationError")
      what = "an option has a value of the wrong kind";
    std::string name = "coffer";
    if (commands.contains(asked))
      name += " " + commands.at(asked);
    else if (asked != &app)
      name += " " + asked->get_name();
    print_error({ErrorCode::kInvalidArgument, name + ": " + what, "See `" + name + " --help`."});
    return Exit{2};
  }
  const CLI::App *asked = &app;
  while (!asked->get_subcommands().empty()) asked = asked->get_subcommands().front();
  a.command = commands.at(asked);
  a.values = std::move(values);
  const bool has_tail = a.command == "machine run" || a.command == "machine exec" || a.command == "run";
  if (!a.tail.empty() && !has_tail) {
    print_error({ErrorCode::kInvalidArgument, "coffer " + a.command + ": nothing may stand behind --",
                 "See `coffer " + a.command + " --help`."});
    return Exit{2};
  }
  return a;
}

Result<uint64_t> number_argument(const Arguments &a, std::string_view of, std::string remedy) {
  uint64_t n = 0;
  if (a.words.empty()) return n;
  const std::string &text = a.words.front();
  const auto [rest, e] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (e != std::errc() || rest != text.data() + text.size() || n == 0)
    return fail(ErrorCode::kInvalidArgument, "argument 1: expected the number of a " + std::string(of),
                std::move(remedy));
  return n;
}

}  // namespace coffer::cli
