// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import Logging
import MDCLog
import MDCModel
import NIOCore

/// What ends a benchmark: something it needs is not there.
struct BenchError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

// MARK: Output

/// Prints one figure.
func figure(_ name: String, _ value: Double, _ unit: String) {
    print("\(name) \(short(value)) \(unit)")
    fflush(nil)
}

/// Prints the median as a figure, and all values to standard error.
func figure(_ name: String, medianOf values: [Double], _ unit: String) {
    note("\(name): \(values.map(short).joined(separator: " "))")
    figure(name, median(values), unit)
}

func note(_ text: String) { writeError("# \(text)") }

/// The C library's `stderr` is a variable that the compiler cannot vouch for.
func writeError(_ text: String) {
    let bytes = Array((text + "\n").utf8)
    _ = bytes.withUnsafeBytes { write(2, $0.baseAddress, $0.count) }
}

/// Four significant digits.
func short(_ value: Double) -> String {
    if value == 0 || !value.isFinite { return "\(value)" }
    var scale = 1.0
    while abs(value) * scale < 1000 { scale *= 10 }
    let rounded = (value * scale).rounded() / scale
    return rounded == rounded.rounded() && abs(rounded) < 1e15 ? "\(Int(rounded))" : "\(rounded)"
}

func median(_ values: [Double]) -> Double { quantile(values, 0.5) }

func quantile(_ values: [Double], _ share: Double) -> Double {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return .nan }
    return sorted[min(Int(Double(sorted.count) * share), sorted.count - 1)]
}

// MARK: Time

/// Seconds on a clock that only grows.
func seconds() -> Double { Double(mdc_monotonic_ns()) / 1e9 }

/// Seconds that a body takes.
func timed(_ body: () throws -> Void) rethrows -> Double {
    let start = seconds()
    try body()
    return seconds() - start
}

/// Processor seconds of this thread.
func threadSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

// MARK: Disk

/// A folder that is removed at the end.
final class Folder {
    let path: String
    private static nonisolated(unsafe) var count = 0

    init(in parent: String) throws {
        Self.count += 1
        path = "\(parent)/mdc-log-bench-\(getpid())-\(Self.count)"
        guard mdc_mkdir(path) == 0 else {
            throw BenchError("\(path) cannot be made: choose a folder that can be written with --dir")
        }
    }

    deinit { Self.remove(path) }

    static func remove(_ path: String) {
        let fileSystem = POSIXFileSystem()
        for entry in (try? fileSystem.list(path)) ?? [] {
            let child = "\(path)/\(entry.name)"
            if entry.isDirectory { remove(child) } else { try? fileSystem.unlink(child) }
        }
        try? fileSystem.removeDirectory(path)
    }

    /// All files below a folder.
    static func files(_ path: String) -> [String] {
        ((try? POSIXFileSystem().list(path)) ?? []).flatMap { entry in
            entry.isDirectory ? files("\(path)/\(entry.name)") : ["\(path)/\(entry.name)"]
        }
    }

    /// Drops a folder's files from the page cache, after bringing them to disk.
    static func dropCaches(_ path: String) throws {
        for file in files(path) {
            let descriptor = open(file, O_RDONLY)
            guard descriptor >= 0 else { continue }
            fdatasync(descriptor)
            posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
            close(descriptor)
        }
    }
}

/// A plain file, for the raw baselines.
final class RawFile {
    let descriptor: Int32
    let path: String

    init(_ path: String, reserving bytes: Int = 0) throws {
        self.path = path
        descriptor = mdc_open(path, MDC_OPEN_WRITE | MDC_OPEN_CREATE)
        guard descriptor >= 0 else { throw BenchError("\(path) cannot be opened") }
        if bytes > 0 { _ = mdc_fallocate(descriptor, 0, Int64(bytes)) }
    }

    deinit {
        _ = mdc_close(descriptor)
        _ = mdc_unlink(path)
    }

    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws {
        var piece = mdc_piece(base: bytes.baseAddress, count: bytes.count)
        let written = mdc_pwritev(descriptor, &piece, 1, Int64(position))
        guard written == bytes.count else { throw BenchError("a raw write to \(path) failed: \(written)") }
    }

    func sync() throws {
        guard mdc_fdatasync(descriptor) == 0 else { throw BenchError("a raw sync of \(path) failed") }
    }
}

/// Reads files one after the other as fast as the system gives them; bytes a second.
func rawReadRate(_ files: [String]) throws -> Double {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    defer { buffer.deallocate() }
    var bytes = 0
    let time = try timed {
        for file in files {
            let descriptor = open(file, O_RDONLY)
            guard descriptor >= 0 else { throw BenchError("\(file) cannot be opened") }
            defer { close(descriptor) }
            var position = 0
            while true {
                let count = mdc_pread(descriptor, buffer.baseAddress!, buffer.count, Int64(position))
                guard count >= 0 else { throw BenchError("\(file) cannot be read") }
                if count == 0 { break }
                position += count
            }
            bytes += position
        }
    }
    return Double(bytes) / time
}

// MARK: Logs

func makeBatch(records: Int, valueSize: Int, key: (Int) -> String? = { _ in nil }, timestamp: Timestamp) throws
    -> ByteBuffer
{
    var builder = RecordBatchBuilder()
    var value = ByteBuffer()
    for index in 0..<valueSize { value.writeInteger(UInt8(truncatingIfNeeded: index &* 31)) }
    for index in 0..<records {
        builder.append(key: key(index).map { ByteBuffer(string: $0) }, value: value, timestamp: timestamp)
    }
    return try builder.build()
}

/// A batch of nearly a mebibyte, the most that the default settings take.
func makeLargeBatch() throws -> ByteBuffer {
    try makeBatch(records: 1010, valueSize: 1024, timestamp: SystemLogClock().now())
}

func openManager(
    _ path: String,
    manual: Bool = false,
    _ configure: (inout LogConfiguration) -> Void = { _ in }
) throws -> LogManager {
    var configuration = LogConfiguration(directories: [path])
    configuration.backgroundMode = manual ? .manual : .threads
    configure(&configuration)
    return try LogManager.open(
        configuration: configuration,
        logger: Logger(label: "bench", factory: { _ in SwiftLogNoOpLogHandler() })
    )
}

func partition(_ number: Int32) -> TopicPartition { TopicPartition(topic: "bench", partition: PartitionID(number)) }

let topicID = TopicID(high: 1, low: 2)

// MARK: Child processes

/// This program as another process, for what is to be killed or measured from its start.
final class Child {
    private let process: pid_t
    private let output: Int32
    private var isRunning = true

    init(_ arguments: [String]) throws {
        var pipes: [Int32] = [0, 0]
        guard pipe(&pipes) == 0 else { throw BenchError("no pipe can be made") }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, pipes[1], 1)
        posix_spawn_file_actions_addclose(&actions, pipes[0])
        var words: [UnsafeMutablePointer<CChar>?] = (["mdc-log-bench"] + arguments).map { strdup($0) } + [nil]
        var identifier: pid_t = 0
        let result = posix_spawn(&identifier, "/proc/self/exe", &actions, nil, &words, environ)
        for word in words { free(word) }
        posix_spawn_file_actions_destroy(&actions)
        close(pipes[1])
        guard result == 0 else { throw BenchError("a process cannot be started (\(result))") }
        process = identifier
        output = pipes[0]
    }

    /// Waits for the line that the child prints when it is where it should be, and gives its words.
    func waitForLine() throws -> [String] {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while read(output, &byte, 1) == 1 {
            if byte == UInt8(ascii: "\n") {
                return String(decoding: line, as: UTF8.self).split(separator: " ").map(String.init)
            }
            line.append(byte)
        }
        throw BenchError("a process that the benchmark started ended early")
    }

    func kill() {
        guard isRunning else { return }
        isRunning = false
        _ = Glibc.kill(process, SIGKILL)
        var status: Int32 = 0
        waitpid(process, &status, 0)
        close(output)
    }

    deinit { kill() }
}

/// Prints a line and waits to be killed.
func waitToBeKilled(_ line: String) -> Never {
    print(line)
    fflush(nil)
    while true { sleep(1000) }
}

/// Runs `body` on a thread with the priority of the engine's own background threads.
func startBackgroundThread(_ body: @escaping @Sendable () -> Void) throws {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    let result = mdc_start_thread("bench-background", Unmanaged.passRetained(Box(body)).toOpaque()) { context in
        guard let context else { return }
        mdc_lower_thread_priority()
        Unmanaged<Box>.fromOpaque(context).takeRetainedValue().body()
    }
    guard result == 0 else { throw BenchError("no thread can be started") }
}
