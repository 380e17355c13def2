#include "socket.hpp"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>

#include "multipart.hpp"

namespace {

/// Tells whether a head has bytes that no head has. What reads lines in two ways is a way past a proxy's checks.
bool well_formed(std::string_view head) {
  for (std::size_t i = 0; i < head.size(); ++i) {
    const auto byte = static_cast<unsigned char>(head[i]);
    if (byte == '\r' ? head.substr(i, 2) != "\r\n" : byte == '\n' ? i == 0 || head[i - 1] != '\r' : false) return false;
    if ((byte < 0x20 && byte != '\t' && byte != '\r' && byte != '\n') || byte == 0x7f) return false;
  }
  return true;
}

/// Tells whether each header is a token and, right behind it, a colon (RFC 9112, section 5). cpp-httplib passes over
/// what it cannot read, decodes %XX and drops what is empty: a body whose length it misses would be the next request.
bool has_plain_headers(std::string_view head) {
  constexpr std::string_view marks = "!#$%&'*+-.^_`|~";
  const auto in_token = [&](unsigned char c) { return std::isalnum(c) || marks.find(char(c)) != marks.npos; };
  for (std::size_t line = head.find("\r\n") + 2; line + 2 < head.size();) {
    const std::size_t end = head.find("\r\n", line), colon = head.find(':', line);
    if (colon >= end) return false;
    const std::string_view name = head.substr(line, colon - line), value = head.substr(colon + 1, end - colon - 1);
    if (name.empty() || !std::all_of(name.begin(), name.end(), in_token)) return false;
    const bool frames = same(name, "Content-Length") || same(name, "Transfer-Encoding");
    if (frames && (trimmed(value).empty() || value.find('%') != value.npos)) return false;
    line = end + 2;
  }
  return true;
}

/// Removes Range headers: a server may ignore them, and cpp-httplib reads them by a regular expression that recurses.
void drop_ranges(std::string& head) {
  for (std::size_t line = head.find("\r\n") + 2; line < head.size();) {
    const std::size_t end = head.find("\r\n", line) + 2, colon = head.find(':', line);
    if (colon < end && same(trimmed(std::string_view(head).substr(line, colon - line)), "Range"))
      head.erase(line, end - line);
    else
      line = end;
  }
}

}  // namespace

Socket::Socket(int descriptor) : descriptor_(descriptor) {
  const int yes = 1;  // head and body of an answer are written one after the other
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

Socket::~Socket() { close(descriptor_); }

bool Socket::ready(short events, Clock::time_point deadline, int wake) {
  pollfd watched[2] = {{descriptor_, events, 0}, {wake, POLLIN, 0}};
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count() + 1;
    const int found = poll(watched, wake < 0 ? 1 : 2, int(std::clamp<long long>(left, 0, 60'000)));
    if (found < 0 && errno == EINTR) continue;
    if (found > 0) return watched[0].revents != 0;
    if (found < 0 || Clock::now() >= deadline) return false;
  }
}

ssize_t Socket::receive(char* out, std::size_t size) {
  for (;;) {
    if (Clock::now() >= deadline_ || !ready(POLLIN, deadline_)) {
      timed_out_ = true;
      return -1;
    }
    const ssize_t count = recv(descriptor_, out, size, MSG_DONTWAIT);
    if (count >= 0) return count;
    if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) return -1;
  }
}

bool Socket::wait(Clock::time_point deadline, int wake) {
  buffer_.erase(0, taken_);
  taken_ = 0;
  timed_out_ = false;
  return !buffer_.empty() || ready(POLLIN, deadline, wake);
}

Socket::Head Socket::read_head(std::size_t longest) {
  for (;;) {
    // A line break or two before a request is no fault (RFC 9112, section 2.2).
    buffer_.erase(0, std::min(buffer_.find_first_not_of("\r\n"), buffer_.size()));
    if (!buffer_.empty() && (buffer_[0] < 'A' || buffer_[0] > 'Z')) return Head::malformed;
    const std::size_t end = buffer_.find("\r\n\r\n");
    if (std::min(end, buffer_.size()) > longest) return Head::too_long;
    if (end != buffer_.npos) {
      std::string head = buffer_.substr(0, end + 4);
      if (!well_formed(head) || !has_plain_headers(head)) return Head::malformed;
      drop_ranges(head);
      buffer_.replace(0, end + 4, head);
      return Head::complete;
    }
    char chunk[4096];
    const ssize_t count = receive(chunk, sizeof chunk);
    if (count < 0) return timed_out_ ? Head::timed_out : Head::closed;
    if (count == 0) return buffer_.empty() ? Head::closed : Head::malformed;
    buffer_.append(chunk, std::size_t(count));
  }
}

void Socket::replace_head(std::string head) {
  buffer_ = std::move(head);
  taken_ = 0;
}

void Socket::linger(Clock::time_point deadline) {
  shutdown(descriptor_, SHUT_WR);
  deadline_ = deadline;
  char sink[16384];
  while (receive(sink, sizeof sink) > 0) continue;
}

ssize_t Socket::read(char* out, std::size_t size) {
  if (taken_ == buffer_.size()) return receive(out, size);
  const std::size_t count = std::min(size, buffer_.size() - taken_);
  std::memcpy(out, buffer_.data() + taken_, count);
  taken_ += count;
  return ssize_t(count);
}

ssize_t Socket::write(const char* data, std::size_t size) {
  for (;;) {
    if (Clock::now() >= deadline_ || !ready(POLLOUT, deadline_)) {
      timed_out_ = true;
      return -1;
    }
    const ssize_t count = send(descriptor_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count >= 0) return count;
    if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) return -1;
  }
}
