#include "coffer/agent/host_streams.h"

#include <algorithm>

#include "host_wire.h"

namespace coffer {
namespace wire {
namespace {
bool piece(MessageSocket &link, uint32_t stream, int64_t ns, ByteSpan bytes) {
  const Wiped sent(message(Kind::kPiece).u32(stream).u64(static_cast<uint64_t>(ns)).raw(bytes).take());
  return link.send(sent.bytes()).has_value();
}
}  // namespace

Bytes answer_logs(MessageSocket &link, Decoder &d, const decltype(HostStreams::logs) &logs) {
  LogQuery query;
  query.follow = read_flag(d);
  query.since_ns = static_cast<int64_t>(d.u64());
  query.tail = d.u64();
  query.failed = read_flag(d);
  if (!d.done()) return refused(nonsense().error());
  return answer(logs(query, [&](uint32_t stream, int64_t ns, ByteSpan bytes) {
    // Whatever comes from the caller meanwhile is its kEnd, or its end.
    return link.quiet() && piece(link, stream, ns, bytes);
  }));
}

Bytes answer_exec(MessageSocket &link, Decoder &d, const decltype(HostStreams::exec) &exec) {
  const std::vector<std::string> argv = read_texts(d);
  const bool has_input = read_flag(d);
  if (!d.done()) return refused(nonsense().error());
  const auto in = [&](std::span<uint8_t> buffer) -> int64_t {
    auto received = link.receive();
    if (!received) return -1;
    const Wiped got(*std::move(received));
    if (got.bytes().front() != static_cast<uint8_t>(Kind::kInput)) return -1;
    const ByteSpan input = got.bytes().subspan(1);
    if (input.size() > buffer.size()) return -1;
    std::ranges::copy(input, buffer.begin());
    return static_cast<int64_t>(input.size());
  };
  const auto out = [&](uint32_t stream, ByteSpan bytes) { return piece(link, stream, 0, bytes); };
  return answer(exec(argv, out, in, has_input ? link.fd() : -1),
                [](Encoder &e, int32_t code) { e.u32(static_cast<uint32_t>(code)); });
}

}  // namespace wire

using namespace wire;

void serve_streams(MessageSocket &link, const HostStreams &streams) {
  const auto in = link.receive();
  if (!in) return;
  Decoder d(*in);
  Bytes out = refused(nonsense().error());
  if (static_cast<Kind>(d.u8()) == Kind::kCall) {
    const auto verb = static_cast<Verb>(d.u8());
    read_state(d);  // the connection says which Machine
    if (verb == Verb::kLogs)
      out = answer_logs(link, d, streams.logs);
    else if (verb == Verb::kExec)
      out = answer_exec(link, d, streams.exec);
  }
  (void)link.send(out);
}

}  // namespace coffer
