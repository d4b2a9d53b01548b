// inject-file: secrets as files.  Its bindings are the [[files]] of the App config and the --file arguments;
// README.md has their schema.  Two pure functions over them, no I/O.
#include <Poco/JSON/Object.h>
#include <Poco/JSON/Parser.h>

#include <algorithm>
#include <coffer/injector.hpp>
#include <optional>
#include <set>

namespace {

using coffer::sdk::Call;
using coffer::sdk::Error;
using coffer::sdk::Options;
using coffer::sdk::SecureBuffer;
using coffer::sdk::to_str;
using coffer::sdk::view;

struct File {
  std::string guest_path, secret;  // secret empty: not a secret, `value` is its content
  std::string value;
  bool base64 = false;
  uint32_t mode = 0400;
  std::optional<uint32_t> uid, gid;

  coffer_delivery delivery() const {
    coffer_delivery d{};
    d.struct_size = sizeof d;
    d.via = COFFER_VIA_TMPFS;
    d.flags = (secret.empty() ? 0 : COFFER_DLV_SECRET) | (uid ? COFFER_DLV_OWNER : 0);
    d.mode = mode;
    d.name = to_str(guest_path);
    d.uid = uid.value_or(0);
    d.gid = gid.value_or(0);
    return d;
  }
};

// ---- base64 (RFC 4648, section 4): padded, with blanks and line ends anywhere ----

// Decodes into `out`, which has room for 3/4 of the input.  Answers the size; or throws, naming the position
// and never the text.
size_t decode_base64(std::string_view text, uint8_t *out, const std::string &what) {
  const auto wrong = [&](size_t at) {
    return Error{COFFER_INVALID_ARGUMENT, what + " is not base64: see position " + std::to_string(at + 1) +
                                              " (store it base64-encoded, or mount it as it is with --file)"};
  };
  size_t used = 0, digits = 0, padding = 0;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
    if (c == '=') {
      if (digits % 4 < 2 || ++padding > 4 - digits % 4) throw wrong(i);
      continue;
    }
    uint32_t digit = 0;
    if (c >= 'A' && c <= 'Z')
      digit = static_cast<uint32_t>(c - 'A');
    else if (c >= 'a' && c <= 'z')
      digit = static_cast<uint32_t>(c - 'a') + 26;
    else if (c >= '0' && c <= '9')
      digit = static_cast<uint32_t>(c - '0') + 52;
    else if (c == '+' || c == '/')
      digit = c == '+' ? 62 : 63;
    else
      throw wrong(i);
    if (padding) throw wrong(i);
    bits = bits << 6 | digit;
    if (++digits % 4 == 0) {
      for (const int shift : {16, 8, 0}) out[used++] = static_cast<uint8_t>(bits >> shift);
      bits = 0;
    }
  }
  if (digits % 4 == 1 || (digits % 4 != 0 && digits % 4 + padding != 4)) throw wrong(text.size());
  if (digits % 4 == 2) out[used++] = static_cast<uint8_t>(bits >> 4);
  if (digits % 4 == 3) {
    out[used++] = static_cast<uint8_t>(bits >> 10);
    out[used++] = static_cast<uint8_t>(bits >> 2);
  }
  return used;
}

// ---- bindings ----

// The core has checked the path by all rules; these are the ones that would hurt here.
bool sane_path(const std::string &path) {
  if (path.size() < 2 || path.size() > 4095 || path[0] != '/' || path.find('\0') != path.npos) return false;
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('/', at + 1), path.size());
    const std::string_view part = std::string_view(path).substr(at + 1, end - at - 1);
    if (part.empty() || part == "." || part == "..") return false;
    at = end;
  }
  return true;
}

bool sane_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

uint32_t number(const Poco::Dynamic::Var &v, int64_t max, const std::string &where) {
  if (!v.isInteger() || v.isBoolean())
    throw Error{COFFER_INVALID_ARGUMENT, where + " must be a whole number"};
  const auto n = v.convert<int64_t>();
  if (n < 0 || n > max) throw Error{COFFER_INVALID_ARGUMENT, where + " is out of range"};
  return static_cast<uint32_t>(n);
}

std::string text(const Poco::Dynamic::Var &v, const std::string &where) {
  if (!v.isString()) throw Error{COFFER_INVALID_ARGUMENT, where + " must be a string"};
  return v.extract<std::string>();
}

File parse_file(const Poco::JSON::Object &o, const std::string &where) {
  File file;
  bool has_value = false, has_secret = false;
  for (const auto &[key, v] : o) {
    const std::string at = where + "." + key;
    if (key == "guest_path") {
      file.guest_path = text(v, at);
    } else if (key == "secret") {
      file.secret = text(v, at);
      if (!sane_name(file.secret)) throw Error{COFFER_INVALID_ARGUMENT, at + " is not a secret's name"};
      has_secret = true;
    } else if (key == "value_base64") {
      const std::string encoded = text(v, at);
      file.value.resize(encoded.size() / 4 * 3 + 3);
      file.value.resize(decode_base64(encoded, reinterpret_cast<uint8_t *>(file.value.data()), at));
      has_value = true;
    } else if (key == "encoding") {
      const std::string encoding = text(v, at);
      if (encoding != "raw" && encoding != "base64")
        throw Error{COFFER_INVALID_ARGUMENT, at + " must be raw or base64"};
      file.base64 = encoding == "base64";
    } else if (key == "mode") {
      file.mode = number(v, 0777, at);
    } else if (key == "uid") {
      file.uid = number(v, UINT32_MAX - 1, at);
    } else if (key == "gid") {
      file.gid = number(v, UINT32_MAX - 1, at);
    } else if (key == "env") {  // for whoever writes inject-env's bindings; nothing to do here
      if (!v.isBoolean()) throw Error{COFFER_INVALID_ARGUMENT, at + " must be true or false"};
    } else {
      throw Error{COFFER_INVALID_ARGUMENT, where + " has a key that inject-file does not know"};
    }
  }
  if (!sane_path(file.guest_path))
    throw Error{COFFER_INVALID_ARGUMENT, where + ".guest_path is not an absolute path without . .. or //"};
  if (has_secret == has_value)
    throw Error{COFFER_INVALID_ARGUMENT, where + " must have exactly one of secret and value_base64"};
  if (file.uid.has_value() != file.gid.has_value())
    throw Error{COFFER_INVALID_ARGUMENT, where + " must have both of uid and gid, or neither"};
  return file;
}

// A parse error of the library can quote its input, so none of it is forwarded.
std::vector<File> parse_bindings(std::string_view json) {
  std::vector<File> files;
  if (json.empty()) return files;
  Poco::JSON::Array::Ptr list;
  try {
    const Poco::Dynamic::Var root = Poco::JSON::Parser().parse(std::string(json));
    const auto object = root.extract<Poco::JSON::Object::Ptr>();
    for (const auto &[key, v] : *object) {
      if (key != "files")
        throw Error{COFFER_INVALID_ARGUMENT, "bindings have a key that inject-file does not know"};
      list = v.extract<Poco::JSON::Array::Ptr>();
    }
    std::set<std::string> paths;
    for (size_t i = 0; list && i < list->size(); ++i) {
      files.push_back(parse_file(*list->get(static_cast<unsigned>(i)).extract<Poco::JSON::Object::Ptr>(),
                                 "files[" + std::to_string(i) + "]"));
      if (!paths.insert(files.back().guest_path).second)
        throw Error{COFFER_INVALID_ARGUMENT, "files[" + std::to_string(i) + "].guest_path is given twice"};
    }
  } catch (const Error &) {
    throw;
  } catch (const std::bad_alloc &) {
    throw;
  } catch (const std::exception &) {
    throw Error{COFFER_INVALID_ARGUMENT, "bindings of inject-file are not a JSON object of its schema"};
  }
  return files;
}

const coffer_secret &find(const coffer_inject_request &request, const File &file) {
  for (size_t i = 0; i < request.n_secrets; ++i)
    if (view(request.secrets[i]->name) == file.secret) return *request.secrets[i];
  throw Error{COFFER_NOT_FOUND, "secret " + file.secret + ", wanted as file " + file.guest_path +
                                    ", does not exist: run coffer secrets set " + file.secret + "=-"};
}

void require_files(const coffer_inject_request &request, const std::vector<File> &files) {
  if (!files.empty() && !(request.vias & COFFER_VIA_TMPFS))
    throw Error{COFFER_FAILED_PRECONDITION,
                "file " + files.front().guest_path + " is not possible: this runtime has no files in memory"};
}

class InjectFile final : public coffer::sdk::Injector {
 public:
  static std::unique_ptr<Instance> open(const Call &, const Options &) {
    return std::make_unique<InjectFile>();
  }

  void plan(const Call &, const coffer_inject_request &request, const Needs &need) override {
    const std::vector<File> files = parse_bindings(view(request.bindings_json));
    require_files(request, files);
    for (const File &file : files)
      if (!file.secret.empty()) find(request, file);
    for (const File &file : files)
      if (!need(file.secret, file.delivery())) return;
  }

  void render(const Call &, const coffer_inject_request &request, const Deliveries &deliver) override {
    const std::vector<File> files = parse_bindings(view(request.bindings_json));
    require_files(request, files);
    for (const File &file : files) {
      coffer_delivery d = file.delivery();
      if (file.secret.empty()) {
        d.value = coffer::sdk::to_bytes(file.value);
        if (!deliver(d)) return;
        continue;
      }
      const coffer_bytes value = find(request, file).value;
      if (!file.base64) {
        d.value = value;
        if (!deliver(d)) return;
        continue;
      }
      SecureBuffer decoded(value.size / 4 * 3 + 3);
      d.value = {decoded.data(),
                 decode_base64(view(value), decoded.data(),
                               "secret " + file.secret + ", wanted as file " + file.guest_path + ",")};
      if (!deliver(d)) return;
    }
  }
};

constexpr coffer_interface_ref kInterfaces[] = {{COFFER_INJECTOR_ID, 0}};
constexpr coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                           COFFER_PLUGIN_CONCURRENT,
                                           "coffer.inject-file",
                                           "inject-file",
                                           "0.1.0",
                                           "Coffer",
                                           "Apache-2.0",
                                           "",
                                           "Secrets as files in memory",
                                           kInterfaces,
                                           1,
                                           nullptr,
                                           0};
}  // namespace

COFFER_PLUGIN(InjectFile, kDescriptor);
