// Validate custom resources, a JSON list on standard input, against their definitions: required fields, types, patterns
// by the packages' validators; fields that do not exist by the TypeScript compiler, since API servers drop those silently.
// Prints a line for each problem; exit code 1 if there is one.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const PACKAGES = {
  "external-secrets.io": "external-secrets",
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};

const problems = [];
const lines = [];
for (const [index, manifest] of JSON.parse(readFileSync(0, "utf8")).entries()) {
  const { apiVersion, kind, metadata } = manifest;
  const name = PACKAGES[apiVersion.split("/")[0]];
  const module = `@kubernetes-models/${name}/${apiVersion}/${kind}`;
  const model = (await import(module))[kind];
  try {
    new model(manifest).validate();
  } catch (error) {
    problems.push(`${kind} ${metadata.name}: ${error.message}`);
  }
  lines.push(`import type { I${kind} as T${index} } from "${module}";`);
  lines.push(`export const m${index}: T${index} = ${JSON.stringify(manifest, null, 2)};`);
}
writeFileSync("manifests.ts", lines.join("\n"));
const options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"];
try {
  execFileSync("node", ["node_modules/typescript/bin/tsc", ...options, "manifests.ts"], { encoding: "utf8" });
} catch (error) {
  problems.push(error.stdout);
}
for (const problem of problems) console.log(problem);
process.exitCode = problems.length ? 1 : 0;
