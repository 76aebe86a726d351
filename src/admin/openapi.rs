//! The OpenAPI document, made of the table of operations and of the types that they take and answer.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::operations::{Answers, Operation};
use super::view::ProblemView;

/// Describes these operations, as OpenAPI 3.1.
pub(super) fn document(operations: &[Operation]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let problem = schemas.subschema_for::<ProblemView>();
    let paths: Map<String, Value> = operations
        .iter()
        .map(|operation| {
            let method = operation.method().as_str().to_ascii_lowercase();
            let described = describe(operation, &mut schemas);
            (operation.path.clone(), json!({ method: described }))
        })
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ziggurat admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a ziggurat is doing, and what its operator may do about it.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "responses": {
                "problem": {
                    "description": "Why the request was not answered.",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
            "schemas": schemas.take_definitions(true),
        },
    })
}

fn describe(operation: &Operation, schemas: &mut SchemaGenerator) -> Value {
    let content = match operation.answer {
        Answers::Json(schema) => json!({ "application/json": { "schema": schema(schemas) } }),
        Answers::Text(media) => json!({ media: { "schema": { "type": "string" } } }),
    };
    let mut responses = json!({
        "200": { "description": operation.about, "content": content },
        "405": problem(),
    });
    let mut add = |statuses: &[&str]| {
        for status in statuses {
            responses[status] = problem();
        }
    };
    if !operation.public {
        add(&["401", "403"]);
    }
    if operation.body.is_some() {
        add(&["400", "404", "408", "409", "413", "415"]);
    }
    if operation.name == "readyz" {
        responses["503"] = json!({ "description": "It cannot take traffic; the text says why.", "content": content });
    }
    let mut described = json!({
        "operationId": operation.name,
        "summary": operation.about,
        "tags": [if operation.public { "public" } else if operation.body.is_some() { "actions" } else { "reads" }],
        "security": if operation.public { json!([]) } else { json!([{ "token": [] }]) },
        "responses": responses,
    });
    if let Some(body) = operation.body {
        described["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": body(schemas) } },
        });
    }
    described
}

fn problem() -> Value {
    json!({ "$ref": "#/components/responses/problem" })
}
