// SPDX-License-Identifier: Apache-2.0

import MDCBroker
import MDCPipeline
import TOMLKit

extension UpSettings {
    /// `[api]`: docs/rest.md.
    mutating func applyAPI(_ table: TOMLTable) throws {
        var configuration = APIServer.Configuration()
        guard let address = table["listen"]?.string.flatMap(HostPort.init) else {
            throw UpSettingsError(description: "api.listen: write \"HOST:PORT\", such as \"127.0.0.1:8081\"")
        }
        (configuration.host, configuration.port) = (address.host, address.port)
        for key in table.keys {
            let place = "api.\(key)"
            switch key {
            case "listen": break
            case "body_max": configuration.bodyBytesMax = try Self.number(table, key, place, 1_024...(64 << 20))
            case "streams_max": configuration.streamsMax = try Self.number(table, key, place, 0...1_000)
            default:
                throw UpSettingsError(
                    description: "\(place) is not known; there are listen, body_max and streams_max"
                )
            }
        }
        api = configuration
    }
}
