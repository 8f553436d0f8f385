// SPDX-License-Identifier: Apache-2.0

public import Logging
import MDCModel
public import NIOCore

/// Administers a cluster: topics, settings, groups. Calls retry what can be retried for
/// `ClientConfiguration.apiTimeout`; connections are opened as needed. Call `close()` at the end.
public final class Admin: Sendable {
    let core: ClientCore
    let configuration: ClientConfiguration

    /// Makes a client. Throws `ClientError` (`configuration`).
    public init(_ configuration: ClientConfiguration, eventLoopGroup: any EventLoopGroup, logger: Logger) throws {
        self.configuration = configuration
        core = try ClientCore(configuration, eventLoop: eventLoopGroup.next(), logger: logger)
    }

    /// Closes the connections; later calls throw `ClientError` (`closed`).
    public func close() async {
        await core.close()
    }
}
