{{/* What the schema cannot say, or could not say clearly. Each message names the value and what to do. */}}
{{- define "plinth.validate" -}}
{{- $v := .Values -}}
{{- $wrong := list -}}

{{- $config := $v.config -}}
{{- if eq $v.postgresql.mode "none" -}}
{{- if or $config.autoscaling.enabled (gt (int $config.replicas) 1) -}}
{{- $wrong = append $wrong "postgresql.mode is none, so config-service keeps its history in SQLite, which has one writer: set config.replicas=1 and config.autoscaling.enabled=false, or give PostgreSQL (postgresql.mode=external with postgresql.existingSecret)" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.postgresql.mode "external") (not $v.postgresql.existingSecret) -}}
{{- $wrong = append $wrong (printf "postgresql.existingSecret is missing: postgresql.mode is external; name a Secret whose key %s holds postgres://user:password@host/database" $v.postgresql.secretKey) -}}
{{- end -}}
{{- if and (eq $v.rabbitmq.mode "external") (not $v.rabbitmq.existingSecret) -}}
{{- $wrong = append $wrong (printf "rabbitmq.existingSecret is missing: rabbitmq.mode is external; name a Secret whose key %s holds amqp://user:password@host/vhost" $v.rabbitmq.secretKey) -}}
{{- end -}}
{{- if and (eq $v.consul.mode "external") (not $v.consul.address) -}}
{{- $wrong = append $wrong "consul.address is missing: consul.mode is external; give http://host:8500 or https://host:8501" -}}
{{- end -}}
{{- if and (eq $v.consul.mode "bundled") (or $v.consul.token.existingSecret $v.consul.tls.existingSecret) -}}
{{- $wrong = append $wrong "consul.token and consul.tls belong to an external Consul: set consul.mode=external and consul.address, or leave them empty" -}}
{{- end -}}

{{- if and (eq $v.gateway.config.source "file") (not $v.gateway.config.existingConfigMap) (not $v.gateway.config.existingSecret) -}}
{{- $kong := fromYaml $v.gateway.config.kong -}}
{{- if hasKey $kong "Error" -}}
{{- $wrong = append $wrong (printf "gateway.config.kong is not YAML: %s" $kong.Error) -}}
{{- else if not (hasKey $kong "_format_version") -}}
{{- $wrong = append $wrong "gateway.config.kong has no _format_version, so it is no declarative configuration of Kong" -}}
{{- else -}}
{{- $bundled := printf "%s-redis" (include "plinth.fullname" .) -}}
{{- range $host := include "plinth.redisHosts" $kong | trim | splitList " " | uniq | compact -}}
{{- if eq $v.redis.mode "none" -}}
{{- $wrong = append $wrong "gateway.config.kong has a plugin with policy redis, but redis.mode is none: set redis.mode=bundled or external, or use policy local" -}}
{{- else if and (eq $v.redis.mode "bundled") (ne $host $bundled) -}}
{{- $wrong = append $wrong (printf "gateway.config.kong has a plugin with policy redis and host %s, but the bundled Redis is %s: name that one, or set redis.mode=external" $host $bundled) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.gateway.config.existingConfigMap $v.gateway.config.existingSecret -}}
{{- $wrong = append $wrong "gateway.config.existingConfigMap and gateway.config.existingSecret: give one of them" -}}
{{- end -}}

{{- if and (not (include "plinth.auth.generated" .)) (not $v.auth.tokens.existingSecret) (not $v.auth.signing.existingSecret) -}}
{{- $wrong = append $wrong "auth.tokens.existingSecret is missing: with your own keys the chart cannot sign the services' tokens; name a Secret with the keys health-peer (scope health:probe), registry-health (health:read) and, if used, gateway-config (config:read), or give auth.signing.existingSecret" -}}
{{- end -}}
{{- if and $v.auth.existingSecret $v.auth.jwksUrl -}}
{{- $wrong = append $wrong "auth.existingSecret and auth.jwksUrl: give one of them" -}}
{{- end -}}
{{- if and (include "plinth.auth.generated" .) (or (ne $v.auth.issuer "plinth") (ne $v.auth.audience "plinth")) -}}
{{- $wrong = append $wrong "auth.issuer and auth.audience must stay plinth while the chart makes the keys: its tokens carry these" -}}
{{- end -}}

{{- if eq $v.mtls.mode "files" -}}
{{- if not $v.mtls.files.certManager.enabled -}}
{{- range $component := list "registry" "config" "health" "gateway" -}}
{{- if not (index $v.mtls.files.existingSecrets $component) -}}
{{- $wrong = append $wrong (printf "mtls.files.existingSecrets.%s is missing: mtls.mode is files and mtls.files.certManager.enabled is false; name a Secret with tls.crt, tls.key and ca.crt" $component) -}}
{{- end -}}
{{- end -}}
{{- else if not $v.mtls.files.certManager.issuerRef.name -}}
{{- $wrong = append $wrong "mtls.files.certManager.issuerRef.name is missing" -}}
{{- end -}}
{{- end -}}

{{- range $component := list "registry" "config" "health" "gateway" -}}
{{- $own := index $v $component -}}
{{- if and $own.autoscaling.enabled (gt (int $own.autoscaling.minReplicas) (int $own.autoscaling.maxReplicas)) -}}
{{- $wrong = append $wrong (printf "%s.autoscaling.minReplicas is above maxReplicas" $component) -}}
{{- end -}}
{{- if and $own.autoscaling.enabled (not (dig "requests" "cpu" "" $own.resources)) -}}
{{- $wrong = append $wrong (printf "%s.resources.requests.cpu is missing: the autoscaler measures CPU against it" $component) -}}
{{- end -}}
{{- end -}}
{{- if ge (int $v.shutdown.drainDelaySeconds) (int $v.shutdown.timeoutSeconds) -}}
{{- $wrong = append $wrong "shutdown.drainDelaySeconds must be below shutdown.timeoutSeconds: the latter counts from the request to stop and includes it" -}}
{{- end -}}
{{- if and $v.ingress.enabled $v.httpRoute.enabled -}}
{{- $wrong = append $wrong "ingress.enabled and httpRoute.enabled: choose one way in" -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- $wrong = append $wrong "httpRoute.parentRefs is missing: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- if and $v.resourceQuota.enabled (not $v.resourceQuota.hard) -}}
{{- $wrong = append $wrong "resourceQuota.hard is missing" -}}
{{- end -}}
{{- if and $v.limitRange.enabled (not $v.limitRange.limits) -}}
{{- $wrong = append $wrong "limitRange.limits is missing" -}}
{{- end -}}

{{- if $wrong -}}
{{- fail (printf "\n\nThese values cannot work:\n- %s\n" (join "\n- " $wrong)) -}}
{{- end -}}
{{- end -}}

{{/* Hosts of Redis that plugins with policy redis name, anywhere in a Kong document; "none" for one that names none. */}}
{{- define "plinth.redisHosts" -}}
{{- if kindIs "map" . -}}
{{- if eq (toString (get . "policy")) "redis" }} {{ default (default "none" (get . "redis_host")) (dig "redis" "host" "" .) }} {{ end -}}
{{- range $_, $value := . -}}{{ include "plinth.redisHosts" $value }}{{- end -}}
{{- else if kindIs "slice" . -}}
{{- range . -}}{{ include "plinth.redisHosts" . }}{{- end -}}
{{- end -}}
{{- end -}}
