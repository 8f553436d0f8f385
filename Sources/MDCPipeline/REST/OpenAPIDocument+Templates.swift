// SPDX-License-Identifier: Apache-2.0

extension OpenAPIDocument {
    /// The paths of templates.
    static let templatePaths = #"""
            "/v1/templates": {
              "get": {
                "operationId": "templates",
                "summary": "Lists the templates that the key can use, with their latest versions.",
                "description": "Scope templates:read.",
                "responses": {
                  "200": {
                    "description": "Done.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TemplateList"}}}
                  },
                  "304": {"description": "As the client has it."},
                  "400": {"$ref": "#/components/responses/Problem"},
                  "401": {"$ref": "#/components/responses/Problem"},
                  "403": {"$ref": "#/components/responses/Problem"},
                  "429": {"$ref": "#/components/responses/TryAgain"},
                  "503": {"$ref": "#/components/responses/TryAgain"}
                }
              }
            },
            "/v1/templates/{name}": {
              "get": {
                "operationId": "template",
                "summary": "One template.",
                "description": "Scope templates:read. A tenant's own goes before one for all.",
                "parameters": [
                  {"name": "name", "in": "path", "required": true, "schema": {"type": "string"}},
                  {"name": "tenant", "in": "query", "schema": {"type": "string"}, "description": "Whose template; for keys of all tenants."},
                  {"name": "version", "in": "query", "schema": {"type": "integer", "minimum": 1}, "description": "Not there: the latest."}
                ],
                "responses": {
                  "200": {
                    "description": "Done.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Template"}}}
                  },
                  "304": {"description": "As the client has it."},
                  "400": {"$ref": "#/components/responses/Problem"},
                  "404": {"$ref": "#/components/responses/Problem"},
                  "401": {"$ref": "#/components/responses/Problem"},
                  "403": {"$ref": "#/components/responses/Problem"},
                  "429": {"$ref": "#/components/responses/TryAgain"},
                  "503": {"$ref": "#/components/responses/TryAgain"}
                }
              },
              "put": {
                "operationId": "putTemplate",
                "summary": "Keeps a template as the next version of its name.",
                "description": "Scope templates:write. Answered once it is durable.",
                "parameters": [
                  {"name": "name", "in": "path", "required": true, "schema": {"type": "string"}},
                  {"name": "tenant", "in": "query", "schema": {"type": "string"}, "description": "Whose template; for keys of all tenants."}
                ],
                "requestBody": {
                  "required": true,
                  "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TemplateDraft"}}}
                },
                "responses": {
                  "200": {
                    "description": "Done.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Template"}}}
                  },
                  "400": {"$ref": "#/components/responses/Problem"},
                  "413": {"$ref": "#/components/responses/Problem"},
                  "415": {"$ref": "#/components/responses/Problem"},
                  "422": {"$ref": "#/components/responses/Problem"},
                  "401": {"$ref": "#/components/responses/Problem"},
                  "403": {"$ref": "#/components/responses/Problem"},
                  "429": {"$ref": "#/components/responses/TryAgain"},
                  "503": {"$ref": "#/components/responses/TryAgain"}
                }
              },
              "delete": {
                "operationId": "deleteTemplate",
                "summary": "Deletes all versions of a template.",
                "description": "Scope templates:write. Messages that were made of it keep their text.",
                "parameters": [
                  {"name": "name", "in": "path", "required": true, "schema": {"type": "string"}},
                  {"name": "tenant", "in": "query", "schema": {"type": "string"}, "description": "Whose template; for keys of all tenants."}
                ],
                "responses": {
                  "204": {"description": "Gone."},
                  "400": {"$ref": "#/components/responses/Problem"},
                  "404": {"$ref": "#/components/responses/Problem"},
                  "401": {"$ref": "#/components/responses/Problem"},
                  "403": {"$ref": "#/components/responses/Problem"},
                  "429": {"$ref": "#/components/responses/TryAgain"},
                  "503": {"$ref": "#/components/responses/TryAgain"}
                }
              }
            },

        """#
}
