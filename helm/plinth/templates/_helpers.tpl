{{/* Names ------------------------------------------------------------------------------------------------------- */}}

{{- define "plinth.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters, so that "<fullname>-<component>" with a suffix stays below the 63 of a label. */}}
{{- define "plinth.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object. (dict "root" $ "component" "registry") */}}
{{- define "plinth.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "plinth.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: plinth
{{- end -}}

{{- define "plinth.selector" -}}
app.kubernetes.io/name: {{ include "plinth.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* What is fixed for each service: catalog name, prefix of its variables, main port. As YAML. */}}
{{- define "plinth.component" -}}
registry: { service: registry-service, prefix: PLINTH_REGISTRY__, port: 8510 }
config: { service: config-service, prefix: PLINTH_CONFIG__, port: 8520 }
health: { service: health-aggregator, prefix: PLINTH_HEALTH__, port: 8530 }
gateway: { service: gateway, prefix: PLINTH_GATEWAY__, port: 8000 }
{{- end -}}

{{- define "plinth.serviceAccount" -}}
{{- $own := (index .root.Values .component).serviceAccount -}}
{{- if $own.name -}}{{ $own.name }}{{- else -}}{{ include "plinth.fullname" .root }}-{{ .component }}{{- end -}}
{{- end -}}

{{/* (dict "root" $ "name" "registry-service" "own" .Values.registry.image) */}}
{{- define "plinth.image" -}}
{{- $image := .root.Values.image -}}
{{- $own := default dict .own -}}
{{- $repository := default (printf "%s/%s" $image.repository .name) $own.repository -}}
{{- $registry := default $image.registry $own.registry -}}
{{- $tag := default (default .root.Chart.AppVersion $image.tag) $own.tag -}}
{{- with $registry }}{{ . }}/{{ end }}{{ $repository }}{{ if $own.digest }}@{{ $own.digest }}{{ else }}:{{ $tag }}{{ end }}
{{- end -}}

{{/* Images of the trial servers: a name of a public registry, or of a mirror of it. */}}
{{- define "plinth.trialImage" -}}
{{- with .root.Values.image.thirdPartyRegistry }}{{ . }}/{{ end }}{{ .image }}
{{- end -}}

{{- define "plinth.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Security ---------------------------------------------------------------------------------------------------- */}}

{{- define "plinth.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .uid }}
runAsGroup: {{ .uid }}
fsGroup: {{ .uid }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "plinth.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ .uid }}
runAsGroup: {{ .uid }}
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{/* Where the platform's own servers are -------------------------------------------------------------------------- */}}

{{- define "plinth.consul.address" -}}
{{- if eq .Values.consul.mode "bundled" -}}
http://{{ include "plinth.fullname" . }}-consul:8500
{{- else -}}
{{ .Values.consul.address }}
{{- end -}}
{{- end -}}

{{- define "plinth.config.url" -}}
{{- ternary "https" "http" (or (eq .Values.mtls.mode "connect") (eq .Values.mtls.mode "files")) }}://{{ include "plinth.fullname" . }}-config:8520
{{- end -}}

{{- define "plinth.postgresql.secret" -}}
{{- default (printf "%s-postgresql" (include "plinth.fullname" .)) .Values.postgresql.existingSecret -}}
{{- end -}}
{{- define "plinth.redis.secret" -}}
{{- default (printf "%s-redis" (include "plinth.fullname" .)) .Values.redis.existingSecret -}}
{{- end -}}
{{- define "plinth.rabbitmq.secret" -}}
{{- default (printf "%s-rabbitmq" (include "plinth.fullname" .)) .Values.rabbitmq.existingSecret -}}
{{- end -}}
{{- define "plinth.auth.secret" -}}
{{- default (printf "%s-auth" (include "plinth.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}
{{- define "plinth.signing.secret" -}}
{{- default (printf "%s-signing" (include "plinth.fullname" .)) .Values.auth.signing.existingSecret -}}
{{- end -}}
{{/* A key verifies tokens, a JWKS does too; the chart makes a pair when it is given neither. */}}
{{- define "plinth.auth.generated" -}}
{{- if not (or .Values.auth.existingSecret .Values.auth.jwksUrl) }}yes{{ end -}}
{{- end -}}

{{- define "plinth.mtls.secret" -}}
{{- $given := index .root.Values.mtls.files.existingSecrets .component -}}
{{- default (printf "%s-%s-tls" (include "plinth.fullname" .root) .component) $given -}}
{{- end -}}

{{/* The service that a component has as a client, and the scope its token needs; empty: it asks nobody. */}}
{{- define "plinth.token" -}}
{{- if eq .component "registry" }}
{ name: registry-health, scope: "health:read", variable: HEALTH_AGGREGATOR__TOKEN_FILE, subject: registry-service }
{{- else if eq .component "health" }}
{ name: health-peer, scope: "health:probe", variable: PEER__TOKEN_FILE, subject: health-aggregator }
{{- else if and (eq .component "gateway") (eq .root.Values.gateway.config.source "config-service") }}
{ name: gateway-config, scope: {{ printf "config:read:%s/%s" .root.Values.gateway.config.service.namespace .root.Values.gateway.config.service.environment | quote }}, variable: CONFIG_SERVICE__TOKEN_FILE, subject: gateway }
{{- else }}
{}
{{- end }}
{{- end -}}

{{/* Stopping ------------------------------------------------------------------------------------------------------- */}}

{{/* The `sleep` handler is on by default since Kubernetes 1.30. Before, the same time is added to the drain delay. */}}
{{- define "plinth.preStop.native" -}}
{{- if semverCompare ">=1.30.0-0" (default .Capabilities.KubeVersion.Version .Values.kubeVersion) }}yes{{ end -}}
{{- end -}}
{{- define "plinth.drainDelay" -}}
{{- if include "plinth.preStop.native" . -}}
{{ int .Values.shutdown.drainDelaySeconds }}
{{- else -}}
{{ add (int .Values.shutdown.drainDelaySeconds) (int .Values.shutdown.preStopSeconds) }}
{{- end -}}
{{- end -}}
{{- define "plinth.shutdownTimeout" -}}
{{- if include "plinth.preStop.native" . -}}
{{ int .Values.shutdown.timeoutSeconds }}
{{- else -}}
{{ add (int .Values.shutdown.timeoutSeconds) (int .Values.shutdown.preStopSeconds) }}
{{- end -}}
{{- end -}}
{{/* preStop, then the service's own limit, then five seconds to end: the kubelet's SIGKILL is never what ends a service. */}}
{{- define "plinth.gracePeriod" -}}
{{ add (int .Values.shutdown.preStopSeconds) (int .Values.shutdown.timeoutSeconds) 5 }}
{{- end -}}

{{/* Secrets that the chart makes once. ------------------------------------------------------------------------------ */}}

{{/*
The value that an existing Secret has, else a new one. It is remembered for the rest of this rendering, since several
objects need the same value. (dict "root" $ "secret" name "key" key "make" value)
*/}}
{{- define "plinth.kept" -}}
{{- $made := .root.Values._made -}}
{{- if not $made -}}{{- $made = dict -}}{{- $_ := set .root.Values "_made" $made -}}{{- end -}}
{{- $id := printf "%s/%s" .secret .key -}}
{{- if not (hasKey $made $id) -}}
{{- $present := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- $data := default dict (get (default dict $present) "data") -}}
{{- if hasKey $data .key -}}
{{- $_ := set $made $id (get $data .key | b64dec) -}}
{{- else -}}
{{- $_ := set $made $id .make -}}
{{- end -}}
{{- end -}}
{{- get $made $id -}}
{{- end -}}

{{- define "plinth.password" -}}
{{- include "plinth.kept" (dict "root" .root "secret" .secret "key" "password" "make" (randAlphaNum 40)) -}}
{{- end -}}

{{- define "plinth.signingKey" -}}
{{- include "plinth.kept" (dict "root" . "secret" (printf "%s-signing" (include "plinth.fullname" .)) "key" "token-key.pem" "make" (genPrivateKey "ed25519")) -}}
{{- end -}}

{{/*
The public half of an Ed25519 key. Templates cannot derive it, but a certificate of the key holds it: in DER it stands
behind the algorithm 1.3.101.112 and the header of a bit string of 33 bytes.
*/}}
{{- define "plinth.publicKey" -}}
{{- $certificate := genSelfSignedCertWithKey "plinth" nil nil 1 . -}}
{{- $body := regexReplaceAll "-----[A-Z ]+-----|\\s" $certificate.Cert "" -}}
{{- $parts := splitList "+ep\x03!\x00" (b64dec $body) -}}
{{- if ne (len $parts) 2 -}}{{- fail "the generated key's certificate has no Ed25519 public key" -}}{{- end -}}
-----BEGIN PUBLIC KEY-----
{{ printf "0*0\x05\x06\x03+ep\x03!\x00%s" (index $parts 1 | trunc 32) | b64enc }}
-----END PUBLIC KEY-----
{{ end -}}
