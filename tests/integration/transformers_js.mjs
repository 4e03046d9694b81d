// Classify texts with a local model folder, offline: FOLDER_OF_MODELS NAME DTYPE TEXTS_AS_JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [models, name, dtype, texts] = process.argv.slice(2);
const found = createRequire(`${process.env.TRANSFORMERS_JS}/`).resolve("@huggingface/transformers");
const { env, pipeline } = await import(pathToFileURL(found).href);
env.allowRemoteModels = false;
env.localModelPath = models;
const classifier = await pipeline("text-classification", name, { dtype });
const answers = [];
for (const text of JSON.parse(texts)) answers.push((await classifier(text, { top_k: null })).flat());
console.log(JSON.stringify(answers));
